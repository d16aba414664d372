"""The endpoints of responses that are kept: GET, DELETE, their input items, and what can't be done with them."""

from __future__ import annotations

from typing import Any

from starlette.datastructures import QueryParams
from starlette.types import Receive, Scope, Send

from services.common.errors import BadInput
from services.common.http.respond import send_json
from services.gateway.http.responses.kept import KeptResponses

MAX_LIMIT = 100
_DEFAULT_LIMIT = 20


class OneResponse:
    """GET /v1/responses/{id}."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        tenant, id = scope["state"]["principal"].tenant, scope["path_params"]["id"]
        if _query(scope).get("stream") == "true":
            raise BadInput(
                "Unsupported value: 'stream' is not supported for a response that is kept. Leave it out.",
                param="stream",
                code="unsupported_parameter",
            )
        await send_json(send, 200, await self._kept.response(tenant, id))


class DeleteResponse:
    """DELETE /v1/responses/{id}."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        id = scope["path_params"]["id"]
        await self._kept.delete(scope["state"]["principal"].tenant, id)
        await send_json(send, 200, {"id": id, "object": "response", "deleted": True})


class InputItems:
    """GET /v1/responses/{id}/input_items: all items that the model read, the latest first."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = _query(scope)
        order, after = query.get("order", "desc"), query.get("after")
        limit = _limit(query.get("limit", str(_DEFAULT_LIMIT)))
        if order not in ("asc", "desc"):
            raise BadInput("Invalid 'order': it should be 'asc' or 'desc'.", param="order")
        items = await self._kept.input(scope["state"]["principal"].tenant, scope["path_params"]["id"])
        if order == "desc":
            items.reverse()
        page = items[_start(items, after) :]
        await send_json(send, 200, _list(page[:limit], has_more=len(page) > limit))


class CancelResponse:
    """POST /v1/responses/{id}/cancel. Only background responses could be cancelled, and there are none."""

    def __init__(self, kept: KeptResponses) -> None:
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._kept.response(scope["state"]["principal"].tenant, scope["path_params"]["id"])
        raise BadInput(
            "Only a response with 'background': true can be cancelled, and this server makes none. To cancel a running "
            "response, close its connection.",
            code="response_not_cancellable",
        )


def _query(scope: Scope) -> QueryParams:
    return QueryParams(scope["query_string"])


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 3 and 1 <= int(text) <= MAX_LIMIT):
        raise BadInput(f"Invalid 'limit': it should be a whole number from 1 to {MAX_LIMIT}.", param="limit")
    return int(text)


def _start(items: list[Any], after: str | None) -> int:
    if after is None:
        return 0
    for index, item in enumerate(items):
        if item["id"] == after:
            return index + 1
    raise BadInput("Invalid 'after': the response has no such input item.", param="after")


def _list(items: list[Any], *, has_more: bool) -> dict[str, Any]:
    return {
        "object": "list",
        "data": items,
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": has_more,
    }
