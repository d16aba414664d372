"""What a connection brings into memory before its request asks for it. Real sockets, with either event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop
from starlette.types import Receive, Scope, Send

from services.gateway.http.server import HttpServer
from services.gateway.limits import READ_BYTES, ConnectionLimits
from tests.fixtures.wait import HANGS_AFTER_S

MIB = 1 << 20
BODY = bytes(range(256)) * (8 * MIB // 256)
LIMITS = ConnectionLimits(
    max_header_bytes=16_384,
    header_timeout_s=HANGS_AFTER_S,
    idle_timeout_s=HANGS_AFTER_S,
    max_unauthenticated=8,
    max_event_bytes=MIB,
)


class Reader:
    """An application that asks for a body in its own time, and answers with nothing."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.goes_on = asyncio.Event()
        self.has_first = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            self.pieces.append(message["body"])
            more = message["more_body"]
            self.has_first.set()
            await self.goes_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@asynccontextmanager
async def serving(app: Reader) -> AsyncGenerator[int]:
    server = HttpServer(app, "127.0.0.1", 0, LIMITS)
    task = asyncio.create_task(server.serve_http())
    try:
        await server.wait_started()
        yield server.port
    finally:
        server.close()
        await task


async def send_a_body() -> None:
    """The client sends as fast as it is let, while the application waits with its first piece."""
    app = Reader()
    async with serving(app) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(BODY))
        writer.write(BODY)
        sending = asyncio.create_task(writer.drain())
        await app.has_first.wait()
        app.goes_on.set()
        assert (await reader.readuntil(b"\r\n")).split()[1] == b"204"
        await sending
        writer.close()
        await writer.wait_closed()
    assert b"".join(app.pieces) == BODY
    assert max(map(len, app.pieces)) <= READ_BYTES


@pytest.mark.parametrize("loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_a_body_comes_in_reads_of_a_bounded_size(loop: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(asyncio.wait_for(send_a_body(), HANGS_AFTER_S))
