"""A TLS server in front of a gateway, as an ingress is: some clients connect to no other."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from tests.fixtures.tls import Certificates

_CHUNK_BYTES = 1 << 16


@asynccontextmanager
async def tls_front(port: int, certificates: Certificates) -> AsyncGenerator[int]:
    """Serve TLS, and hand the bytes to 127.0.0.1:`port`. Yield the own port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates.certificate, certificates.key)
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        connections.add(task := asyncio.ensure_future(_connect(reader, writer, port)))
        task.add_done_callback(connections.discard)
        await task

    server = await asyncio.start_server(serve, "127.0.0.1", ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)
        await server.wait_closed()


async def _connect(reader: StreamReader, writer: StreamWriter, port: int) -> None:
    gateway_reader, gateway_writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        await asyncio.gather(_pass_on(reader, gateway_writer), _pass_on(gateway_reader, writer))


async def _pass_on(reader: StreamReader, writer: StreamWriter) -> None:
    """Write what is read to its end, and close."""
    try:
        while data := await reader.read(_CHUNK_BYTES):
            writer.write(data)
            await writer.drain()
    finally:
        writer.close()
