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
from services.gateway.http.dashscope.wire import STREAM_HEADER
from services.gateway.http.respond import BODY_READER, FAILED
from services.gateway.idempotency.claims import Claim
from services.gateway.idempotency.keys import HEADER, IdempotencyKeys, check_key
from services.gateway.idempotency.response import KeptResponse, RequestDigest, kept_headers

# A client that takes nothing for so long is gone: its connection may have been lost without a sign.
PATIENCE_S = 30.0
REPLAYED = (b"idempotent-replayed", b"true")
"""A header of a response that is sent again."""


class Idempotent:
    """`keys`: None = the header means nothing."""

    def __init__(self, app: ASGIApp, keys: IdempotencyKeys | None, *, patience_s: float = PATIENCE_S) -> None:
        self._app = app
        self._keys = keys
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = header(scope, HEADER.lower().encode())
        if given is None or self._keys is None:
            await self._app(scope, receive, send)
            return
        key = given.decode("latin-1")
        check_key(key)
        try:
            async with AsyncExitStack() as stack:
                exchange = _Exchange(self._keys, scope["state"]["principal"].tenant, key, _digest_of(scope), stack)
                stack.callback(exchange.drop_recording)
                scope["state"][BODY_READER] = exchange
                await self._app(scope, exchange.receiving(receive), exchange.sending(send, self._patience_s))
        except _Answered as answered:
            await _send_again(send, answered.response)


class _Answered(Exception):
    """The request has a response already."""

    def __init__(self, response: KeptResponse) -> None:
        super().__init__()
        self.response = response


class _Exchange:
    """A request with a key, and its response as it is sent."""

    def __init__(
        self, keys: IdempotencyKeys, tenant: str, key: str, digest: RequestDigest, stack: AsyncExitStack
    ) -> None:
        self._keys = keys
        self._tenant = tenant
        self._key = key
        self._digest = digest
        self._stack = stack
        self._claim: Claim | None = None
        self._start: Message = {}
        # None = it became too large.
        self._recording: bytearray | None = bytearray()

    # The request

    def add(self, piece: bytes) -> None:
        self._digest.add(piece)

    async def end(self) -> None:
        """Claim the key. Raise _Answered, or as IdempotencyKeys.take."""
        taken = await self._keys.take(self._tenant, self._key, self._digest.finished())
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
                body = None if self._recording is None else bytes(self._recording)
                response = KeptResponse(
                    claim.digest, self._start["status"], kept_headers(self._start.get("headers", ())), body
                )
                await self._keys.finish(self._tenant, self._key, response)

    def _add_body(self, body: bytes) -> None:
        if self._recording is None:
            return
        size_bytes = len(self._recording) + len(body)
        if size_bytes > self._keys.response_bytes or len(body) > self._keys.recording_left_bytes:
            self.drop_recording()
            return
        self._keys.recording_left_bytes -= len(body)
        self._recording += body

    def drop_recording(self) -> None:
        self._keys.recording_left_bytes += len(self._recording or b"")
        self._recording = None


def _digest_of(scope: Scope) -> RequestDigest:
    kind, options = parse_options_header(header(scope, b"content-type"))
    # In DashScope's native form this header, and not the body, says whether the answer is streamed.
    path = f"{scope['path']} {(header(scope, STREAM_HEADER) or b'').decode('latin-1')}".rstrip()
    return RequestDigest(path, options.get(b"boundary", b"") if kind == b"multipart/form-data" else b"")


async def _send_again(send: Send, response: KeptResponse) -> None:
    await send({"type": "http.response.start", "status": response.status, "headers": [*response.headers, REPLAYED]})
    await send({"type": "http.response.body", "body": response.body or b""})
