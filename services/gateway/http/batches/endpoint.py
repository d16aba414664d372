"""/v1/batches: create, list, get and cancel."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import Receive, Scope, Send

from services.common.errors import Forbidden
from services.common.http.respond import send_bytes
from services.common.key_scopes import Scope as KeyScope
from services.gateway.batches.records import BatchRequest, Page, Records
from services.gateway.http.batches.reply import BatchesReply, batch_object_of
from services.gateway.http.batches.schema import BatchRequestBody
from services.gateway.http.json_body import parse_json
from services.gateway.http.query import after_of, id_of, is_oldest_first, limit_of, query_of
from services.gateway.http.reply import Reply
from services.gateway.http.respond import read_body, require_json
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory
from services.gateway.turn.intent import Principal

MAX_LIMIT = 100
_DEFAULT_LIMIT = 20


class CreateBatch:
    """POST /v1/batches. `scopes`: what the key needs for an endpoint's lines. `made` is called after each."""

    def __init__(
        self,
        records: Records,
        limits: RequestLimits,
        memory: GatewayMemory,
        scopes: Mapping[str, KeyScope],
        made: Callable[[], None],
    ) -> None:
        self._records = records
        self._limits = limits
        self._memory = memory
        self._scopes = scopes
        self._made = made

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal = scope["state"]["principal"]
        require_json(scope)
        async with self._memory.request(principal.tenant) as memory:
            asked = parse_json(await read_body(scope, receive, self._limits, memory), BatchRequestBody)
        if principal.secret is not None:
            raise Forbidden("A client secret makes no batches. Use an API key.", code="api_key_needed")
        principal.check_scope(self._scopes[asked.endpoint])
        expires = asked.output_expires_after
        batch = await self._records.create_batch(
            BatchRequest(
                tenant=principal.tenant,
                key_id=principal.key_id,
                endpoint=asked.endpoint,
                input_file_id=asked.input_file_id,
                window_s=asked.window_s,
                metadata=asked.metadata or {},
                output_expires_after_s=expires.seconds if expires else 0,
            )
        )
        self._made()
        await _send(send, batch_object_of(batch))


class ListBatches:
    """GET /v1/batches."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query = query_of(scope, "after", "limit", "order")
        page = Page(after_of(query), limit_of(query, _DEFAULT_LIMIT, MAX_LIMIT), is_oldest_first(query))
        batches, has_more = await self._records.batches(scope["state"]["principal"].tenant, page)
        data = [batch_object_of(batch) for batch in batches]
        reply = BatchesReply(
            data=data,
            first_id=data[0].id if data else None,
            last_id=data[-1].id if data else None,
            has_more=has_more,
        )
        await _send(send, reply)


class OneBatch:
    """GET /v1/batches/{id}."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        batch = await self._records.batch(scope["state"]["principal"].tenant, id_of(scope, "batch"))
        await _send(send, batch_object_of(batch))


class CancelBatch:
    """POST /v1/batches/{id}/cancel."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        batch = await self._records.cancel_batch(scope["state"]["principal"].tenant, id_of(scope, "batch"))
        await _send(send, batch_object_of(batch))


async def _send(send: Send, reply: Reply) -> None:
    await send_bytes(send, 200, reply.model_dump_json().encode(), "application/json")
