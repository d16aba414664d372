"""Idempotency-Key: a request runs once, also where its client leaves, and is answered again from what is kept.

The key is claimed once the body has come, as the request's digest is known then. From there on the request runs to its
end. Only a response that is complete and no error is kept; all others free the key.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from python_multipart.multipart import parse_options_header
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.http.respond import header
from services.common.memory_budget import Hold
from services.gateway.http.dashscope.wire import STREAM_HEADER
from services.gateway.http.respond import BODY_READER, FAILED
from services.gateway.idempotency.claims import Claim
from services.gateway.idempotency.keys import HEADER, IdempotencyKeys, check_key
from services.gateway.idempotency.response import KeptResponse, RequestDigest, kept_headers
from services.gateway.turn.held_media import SMALL_BYTES

# A client that takes nothing for so long is gone: its connection may have been lost without a sign.
PATIENCE_S = 30.0
# A recording's room grows in steps of this.
_STEP_BYTES = 1 << 18
# On its way to Redis a response is there itself, as the client's command and as what the socket does not take yet.
_COPIES_ON_THE_WAY = 3
# A response that is sent again goes out in pieces of this: the next one once the connection takes it.
_PIECE_BYTES = 1 << 16
REPLAYED = (b"idempotent-replayed", b"true")
"""A header of a response that is sent again."""


class Idempotent:
    """`keys`: None = the header means nothing. `has_body`: whether the endpoint reads one."""

    def __init__(
        self, app: ASGIApp, keys: IdempotencyKeys | None, *, has_body: bool = True, patience_s: float = PATIENCE_S
    ) -> None:
        self._app = app
        self._keys = keys
        self._has_body = has_body
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = header(scope, HEADER.lower().encode())
        if given is None or self._keys is None:
            await self._app(scope, receive, send)
            return
        key = given.decode("latin-1")
        check_key(key)
        with self._keys.room() as hold:
            try:
                async with AsyncExitStack() as stack:
                    tenant = scope["state"]["principal"].tenant
                    exchange = _Exchange(self._keys, hold, tenant, key, _digest_of(scope), stack)
                    if self._has_body:
                        scope["state"][BODY_READER] = exchange
                    else:
                        await exchange.end()
                    await self._app(scope, exchange.receiving(receive), exchange.sending(send, self._patience_s))
            except _Answered as answered:
                await _send_again(send, answered.response, self._patience_s)


class _Answered(Exception):
    """The request has a response already."""

    def __init__(self, response: KeptResponse) -> None:
        super().__init__()
        self.response = response


class _Exchange:
    """A request with a key, and its response as it is sent. `hold` is what the response takes of the memory: it goes
    out at its own pace, so its recording takes what room there is, and ends where there is none."""

    def __init__(
        self, keys: IdempotencyKeys, hold: Hold, tenant: str, key: str, digest: RequestDigest, stack: AsyncExitStack
    ) -> None:
        self._keys = keys
        self._hold = hold
        self._tenant = tenant
        self._key = key
        self._digest = digest
        self._stack = stack
        self._claim: Claim | None = None
        self._start: Message = {}
        # None = it became too large, or there was no room.
        self._recording: bytearray | None = bytearray()

    # The request

    def add(self, piece: bytes) -> None:
        self._digest.add(piece)

    async def end(self) -> None:
        """Claim the key. Raise _Answered, or as IdempotencyKeys.take."""
        taken = await self._keys.take(self._tenant, self._key, self._digest.finished(), self._hold)
        if isinstance(taken, KeptResponse):
            raise _Answered(taken)
        await self._stack.enter_async_context(self._keys.run(taken))
        self._claim = taken

    def receiving(self, receive: Receive) -> Receive:
        async def receive_until_claimed() -> Message:
            if self._claim is not None:
                await asyncio.Event().wait()  # whether the client is still there changes nothing
            return await receive()

        return receive_until_claimed

    # The response

    def sending(self, send: Send, patience_s: float) -> Send:
        is_gone = False

        async def record_and_send(message: Message) -> None:
            nonlocal is_gone
            if self._claim is None:
                await send(message)
                return
            await self._record(message, self._claim)
            if not is_gone:
                try:
                    async with asyncio.timeout(patience_s):
                        await send(message)
                except TimeoutError:
                    is_gone = True

        return record_and_send

    async def _record(self, message: Message, claim: Claim) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        elif message["type"] == "http.response.body":
            is_last = not message.get("more_body", False)
            if self._start["status"] >= 300 or FAILED in message:
                if is_last:  # free the key before the client can send the request again
                    await self._stack.aclose()
                return
            self._add_body(message.get("body", b""))
            if is_last:
                await self._keep(claim)

    def _add_body(self, body: bytes) -> None:
        if self._recording is None:
            return
        size_bytes = len(self._recording) + len(body)
        if size_bytes > self._keys.response_bytes or not self._has_room(size_bytes):
            self._drop_recording()
        else:
            self._recording += body

    async def _keep(self, claim: Claim) -> None:
        if self._recording is not None and not self._has_room(_COPIES_ON_THE_WAY * len(self._recording)):
            self._drop_recording()
        headers = kept_headers(self._start.get("headers", ()))
        value = KeptResponse(claim.digest, self._start["status"], headers, self._recording).encoded()
        if self._recording is not None:
            self._recording.clear()
        await self._keys.finish(self._tenant, self._key, value)
        self._drop_recording()

    def _has_room(self, size_bytes: int) -> bool:
        """Take what `size_bytes` need beyond what is held. Little is not counted."""
        if size_bytes <= SMALL_BYTES or size_bytes <= self._hold.size_bytes:
            return True
        return self._hold.grow_at_once(-(-size_bytes // _STEP_BYTES) * _STEP_BYTES - self._hold.size_bytes)

    def _drop_recording(self) -> None:
        self._recording = None
        self._hold.shrink(self._hold.size_bytes)


def _digest_of(scope: Scope) -> RequestDigest:
    kind, options = parse_options_header(header(scope, b"content-type"))
    # In DashScope's native form this header, and not the body, says whether the answer is streamed.
    path = f"{scope['path']} {(header(scope, STREAM_HEADER) or b'').decode('latin-1')}".rstrip()
    return RequestDigest(path, options.get(b"boundary", b"") if kind == b"multipart/form-data" else b"")


async def _send_again(send: Send, response: KeptResponse, patience_s: float) -> None:
    body = memoryview(response.body or b"")
    headers = [*response.headers, REPLAYED]
    try:
        async with asyncio.timeout(patience_s):
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
        for begin in range(0, max(len(body), 1), _PIECE_BYTES):
            end = begin + _PIECE_BYTES
            async with asyncio.timeout(patience_s):
                await send({"type": "http.response.body", "body": bytes(body[begin:end]), "more_body": end < len(body)})
    except TimeoutError:
        pass  # the client is gone
