"""Both sides detect a peer that vanishes behind a proxy which still acknowledges TCP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

from services.common import channels
from services.common.channels import open_channel
from tests.fixtures.wait import HANGS_AFTER_S

METHOD = "/test.Test/Stream"
FASTER = 2
"""Detection takes 15 s as the services have it; a part of it shows as well that both sides detect."""


def faster(options: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the options with shorter times."""
    return [(name, value // FASTER if name.endswith("_ms") else value) for name, value in options]


class Proxy:
    """Forwards bytes until `freeze`. After that it reads and acknowledges, but forwards nothing."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._frozen = False
        self._pumps: list[asyncio.Task[None]] = []

    def freeze(self) -> None:
        self._frozen = True

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[str]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            for pump in self._pumps:
                pump.cancel()
            await asyncio.gather(*self._pumps, return_exceptions=True)
            server.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._to)
        self._pumps += [
            asyncio.create_task(self._pump(reader, back)),
            asyncio.create_task(self._pump(there, writer)),
        ]

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(1 << 16):
                if not self._frozen:
                    sink.write(data)
            if self._frozen:  # the other side does not learn of the end either
                await asyncio.Event().wait()
        finally:
            sink.close()


async def test_both_sides_detect_a_frozen_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "CHANNEL_OPTIONS", faster(channels.CHANNEL_OPTIONS))
    left = asyncio.Event()

    async def stream(request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            left.set()

    server = grpc.aio.server(options=faster(channels.SERVER_OPTIONS))
    handler = grpc.unary_stream_rpc_method_handler(stream)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Stream": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    proxy = Proxy(port)
    try:
        async with proxy.running() as address, open_channel(address) as channel:
            call: Any = channel.unary_stream(METHOD)(b"")
            assert await call.read() == b"first"
            proxy.freeze()
            async with asyncio.timeout(HANGS_AFTER_S):  # 5 s between pings, 2.5 s for the answer, and a busy machine
                with pytest.raises(grpc.aio.AioRpcError) as lost:
                    await call.read()
                await left.wait()
            assert lost.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)
