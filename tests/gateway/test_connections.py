"""Connections over HTTP that nobody has authenticated are limited in number and time. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import pytest_asyncio
from prometheus_client import REGISTRY, generate_latest
from pydantic import SecretStr
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway.http import connections
from services.gateway.http.dashscope.uploads.endpoint import OBJECTS
from services.gateway.limits import READ_BYTES
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, RunningGateway, running_gateway

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIVE = b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n"
DOCUMENT = b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n"
KEY = b"authorization: Bearer %b\r\n" % API_KEY.encode()
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: x\r\n" + KEY + b"\r\n"
CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
HALF_BODY = b"content-length: 100\r\n\r\n{"
MOST = 4
HEADERS_S, IDLE_S = 0.3, 1.0


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with running_gateway(
        store.url,
        max_unauthenticated_connections=MOST,
        header_timeout_s=HEADERS_S,
        idle_timeout_s=IDLE_S,
        body_timeout_s=0.5,
    ) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def patient_gateway(
    store: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[RunningGateway]:
    """A gateway for connections that are to stay open however slow the machine is."""
    patient: dict[str, Any] = {
        "header_timeout_s": HANGS_AFTER_S,
        "idle_timeout_s": HANGS_AFTER_S,
        "body_timeout_s": HANGS_AFTER_S,
    }
    uploads: dict[str, Any] = {
        "object_store_url": f"file://{tmp_path_factory.mktemp('objects')}",
        "batches_address": "127.0.0.1:1",
        "control_token": SecretStr("nobody listens there"),
        "batch_concurrency": 0,
    }
    async with running_gateway(store.url, max_unauthenticated_connections=MOST, **patient, **uploads) as running:
        yield running


class Peer:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def head(self) -> bytes:
        """Read one response with a JSON body and return its head."""
        head = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), HANGS_AFTER_S)
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length"))
        await self._reader.readexactly(int(length.split(b":")[1]))
        return head

    async def rest(self) -> bytes:
        """Return all that comes until the gateway closes the connection. A reset may destroy it where this side
        still sends."""
        with contextlib.suppress(ConnectionResetError):
            return await asyncio.wait_for(self._reader.read(), HANGS_AFTER_S)
        return b""

    @property
    def is_closed(self) -> bool:
        return self._reader.at_eof() or self._reader.exception() is not None


@asynccontextmanager
async def connected(gateway: RunningGateway, data: bytes = b"") -> AsyncGenerator[Peer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(data)
        yield Peer(reader, writer)
    finally:
        writer.close()


async def trickle(peer: Peer, data: bytes) -> None:
    """Send `data` again and again, slowly, until the gateway closes the connection."""
    while not peer.is_closed:
        peer.send(data)
        await asyncio.sleep(HEADERS_S / 10)


async def test_a_connection_that_sends_nothing_is_closed(gateway: RunningGateway) -> None:
    began_s = time.monotonic()
    async with connected(gateway) as peer:
        assert await peer.rest() == b""
    assert time.monotonic() - began_s >= IDLE_S * 0.9


@pytest.mark.parametrize("half", [b"G", LIVE[:-2], CHAT + b"x-a: b"])
async def test_half_a_header_is_answered_408(gateway: RunningGateway, half: bytes) -> None:
    async with connected(gateway, half) as peer:
        answer = await peer.rest()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"slow_headers"' in answer


@pytest.mark.parametrize("drop", [b"\r\n", b"x-a: b\r\n"])
async def test_bytes_that_trickle_do_not_prolong_the_time_for_headers(gateway: RunningGateway, drop: bytes) -> None:
    async with connected(gateway, CHAT if drop != b"\r\n" else b"") as peer:
        closed = _closed("slow_headers")
        trickling = asyncio.create_task(trickle(peer, drop))
        await peer.rest()
        await trickling
    assert _closed("slow_headers") == closed + 1


async def test_the_time_for_headers_counts_anew_with_each_request(gateway: RunningGateway) -> None:
    async with connected(gateway, MODELS) as peer:
        assert b" 200 " in await peer.head()
        peer.send(MODELS[:-2])
        assert b"slow_headers" in await peer.rest()


async def test_a_body_without_a_key_is_not_waited_for(gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "UNREAD_BODY_S", HEADERS_S)
    async with connected(gateway, CHAT + HALF_BODY) as peer:
        assert b" 401 " in await peer.head()
        trickling = asyncio.create_task(trickle(peer, b"x"))
        assert await peer.rest() == b""
        await trickling


async def test_a_connection_serves_on_once_an_unread_body_is_complete(patient_gateway: RunningGateway) -> None:
    async with connected(patient_gateway, CHAT + HALF_BODY) as peer:
        assert b" 401 " in await peer.head()
        peer.send(b"x" * 99 + MODELS)
        assert b" 200 " in await peer.head()


async def test_half_a_body_with_a_key_is_408(gateway: RunningGateway) -> None:
    async with connected(gateway, CHAT + KEY + HALF_BODY) as peer:
        assert (await peer.rest()).startswith(b"HTTP/1.1 408")


async def test_half_a_second_request_does_not_end_the_answer_to_the_first(gateway: RunningGateway) -> None:
    """Its headers are not complete in time while the first request's body is awaited."""
    async with connected(gateway, CHAT + KEY + b"content-length: 2\r\n\r\n{}" + b"GET") as peer:
        assert b" 400 " in await peer.head()
        assert b"slow_headers" in await peer.rest()


async def test_one_connection_too_many_closes_the_oldest_without_a_key(patient_gateway: RunningGateway) -> None:
    async with connected(patient_gateway, MODELS) as proven, connected(patient_gateway) as oldest:
        assert b" 200 " in await proven.head()
        await wait_until(lambda: "unauthenticated_connections 1.0" in _shown())
        async with (
            connected(patient_gateway, LIVE) as second,
            connected(patient_gateway) as third,
            connected(patient_gateway) as fourth,
        ):
            assert b" 200 " in await second.head()
            await wait_until(lambda: f"unauthenticated_connections {MOST}.0" in _shown())
            async with connected(patient_gateway, MODELS) as newest:
                assert await oldest.rest() == b""
                assert b" 200 " in await newest.head()
                assert not any(peer.is_closed for peer in (proven, second, third, fourth))
                proven.send(MODELS)
                assert b" 200 " in await proven.head()


async def test_uploads_without_a_policy_keep_no_client_out(patient_gateway: RunningGateway) -> None:
    """They are requests without a key, and are not over before their bodies are."""
    head = f"POST {OBJECTS} HTTP/1.1\r\nhost: x\r\ncontent-type: multipart/form-data; boundary=x\r\n"
    flood = [await asyncio.open_connection("127.0.0.1", patient_gateway.port) for _ in range(2 * MOST)]
    for _, writer in flood:
        writer.write(f"{head}expect: 100-continue\r\ncontent-length: 1000\r\n\r\n".encode())
    for reader, _ in flood[-MOST:]:
        assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANGS_AFTER_S)
    async with connected(patient_gateway, MODELS) as peer:
        assert b" 200 " in await peer.head()
    for _, writer in flood:
        writer.close()


async def test_a_flood_of_connections_keeps_no_client_out(patient_gateway: RunningGateway) -> None:
    flood = [await asyncio.open_connection("127.0.0.1", patient_gateway.port) for _ in range(10 * MOST)]
    for _, writer in flood:
        writer.write(LIVE[:-2])
    async with connected(patient_gateway, MODELS) as peer:
        assert b" 200 " in await peer.head()
    for _, writer in flood:
        writer.close()


@pytest.mark.parametrize("requests", [400, 1], ids=["more than buffers hold", "less than buffers hold"])
async def test_a_stranger_that_reads_no_responses_is_closed(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch, requests: int
) -> None:
    monkeypatch.setattr(connections, "UNREAD_RESPONSE_S", HEADERS_S)
    reason = "unread_response" if requests > 1 else "idle"
    closed = _closed(reason)
    with socket.socket() as silent:
        silent.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        silent.connect(("127.0.0.1", gateway.port))
        silent.sendall(DOCUMENT * requests)
        await wait_until(lambda: _closed(reason) == closed + 1)
    await wait_until(lambda: "unauthenticated_connections 0.0" in _shown())


@pytest.mark.parametrize(
    "opening",
    [b"", CHAT + b"content-length: 2\r\n\r\n{}", CHAT + b"transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"],
    ids=["nothing", "a body", "a body without a length"],
)
async def test_requests_behind_one_another_wait_as_bytes(patient_gateway: RunningGateway, opening: bytes) -> None:
    tiny = b"GET /health/live HTTP/1.1\r\n\r\n"
    most = 4096 // len(tiny) if b"chunked" in opening else 0
    count = 2 * READ_BYTES // len(tiny)
    async with connected(patient_gateway, opening + count * tiny) as peer:
        if opening:
            assert b" 401 " in await peer.head()
        for number in range(count):
            assert b" 200 " in await peer.head()
            if number < 3:
                (connection,) = patient_gateway.gateway.http.server_state.connections
                assert isinstance(connection, HttpToolsProtocol)
                assert len(connection.pipeline) <= most
        assert not peer.is_closed


def _shown() -> str:
    return generate_latest().decode()


def _closed(reason: str) -> float:
    return REGISTRY.get_sample_value("antiphon_gateway_connections_closed_total", {"reason": reason}) or 0.0
