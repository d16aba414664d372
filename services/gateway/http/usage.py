"""GET /v1/usage: what the key's own project used, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol

from pydantic import Field, ValidationError
from starlette.types import Receive, Scope, Send

from services.common.errors import Forbidden
from services.common.http.errors import bad_input_from
from services.common.http.respond import send_bytes
from services.common.usage_sums import UsageReply, UsageSumsQuery
from services.gateway.http.query import query_of
from services.gateway.http.reply import Reply
from services.gateway.turn.intent import Principal

PARAMETERS = {field.alias or name: field.description or "" for name, field in UsageSumsQuery.model_fields.items()}
"""Of the query, and what each is."""


class UsageSource(Protocol):
    async def sums(self, project_id: str, query: Mapping[str, str]) -> tuple[list[UsageReply], str]:
        """Return a page of the project's sums, and `after` of the next one; "" = this is the last one.

        Raise BadInput for what can't be asked, and Unavailable.
        """
        ...


class UsagePage(Reply):
    object: Literal["list"] = "list"
    data: list[UsageReply]
    has_more: bool
    next_after: str | None = Field(description="`after` of the next page; null = this is the last one")


class OwnUsage:
    """The endpoint as an ASGI application."""

    def __init__(self, source: UsageSource) -> None:
        self._source = source

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        if not principal.project_id:
            raise Forbidden(
                "This key belongs to no project, so it has no usage of its own. Use a key of a project.",
                code="project_key_needed",
            )
        query = dict(query_of(scope, *PARAMETERS))
        try:
            UsageSumsQuery.model_validate(query)
        except ValidationError as error:
            raise bad_input_from(error, query) from None
        rows, next_after = await self._source.sums(principal.project_id, query)
        page = UsagePage(data=rows, has_more=bool(next_after), next_after=next_after or None)
        await send_bytes(send, 200, page.model_dump_json().encode(), "application/json", {"cache-control": "no-store"})
