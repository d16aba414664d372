"""Connections and calls over gRPC that nobody has authenticated are limited in number and time. Real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from services.common import channels
from services.common.channels import SERVER_OPTIONS, GrpcConnections, open_channel
from services.common.interceptors import CallInterceptor
from services.common.open_calls import OpenCalls
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\0\4\1\0\0\0\0"
END_STREAM, END_HEADERS = 1, 4
MOST, READS, CALLS = 3, 2, 4


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def headers(stream: int = 1, flags: int = END_HEADERS, method: bytes = b"Check") -> bytes:
    fields = {
        b":method": b"POST",
        b":scheme": b"http",
        b":path": b"/grpc.health.v1.Health/" + method,
        b":authority": b"x",
        b"content-type": b"application/grpc",
        b"te": b"trailers",
    }
    block = b"".join(b"\0" + bytes([len(k)]) + k + bytes([len(v)]) + v for k, v in fields.items())
    return frame(1, flags, stream, block)


def half_body(stream: int = 1) -> bytes:
    return frame(0, 0, stream, b"\0" + struct.pack(">I", 1000) + b"half")


@asynccontextmanager
async def served(
    monkeypatch: pytest.MonkeyPatch, *, read_s: float = 30.0, most: int = MOST, most_calls: int = CALLS
) -> AsyncGenerator[str]:
    monkeypatch.setattr(channels, "_HANDSHAKE_MS", 500)
    limits = GrpcConnections(most=most, max_message_bytes=1 << 20, idle_s=0.5, longest_call_s=5.0)
    calls = OpenCalls(most_calls, READS, read_s)
    server = grpc.aio.server(
        interceptors=(CallInterceptor(40_000, calls),), options=tuple((dict(SERVER_OPTIONS) | limits.options).items())
    )
    port = server.add_insecure_port("127.0.0.1:0")
    servicer = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


async def until_closed(address: str, data: bytes) -> bytes:
    """Send `data` and return all that comes until the server closes the connection."""
    reader, writer = await asyncio.open_connection(*address.split(":"))
    writer.write(data)
    received = b""
    with contextlib.suppress(ConnectionResetError):
        received = await asyncio.wait_for(reader.read(), HANGS_AFTER_S)
    writer.close()
    return received


@pytest.mark.parametrize(
    "data",
    [b"", HELLO[:10], HELLO[:-18], HELLO, HELLO + headers()[:30], HELLO + headers(flags=0)],
    ids=["nothing", "half a preface", "no settings", "no call", "half a header", "headers without an end"],
)
async def test_a_connection_without_a_call_is_closed(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    async with served(monkeypatch) as address:
        await until_closed(address, data)


@pytest.mark.parametrize("method", [b"Check", b"Watch"])
@pytest.mark.parametrize("body", [b"", half_body()], ids=["no body", "half a body"])
async def test_a_call_without_its_request_ends_and_its_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch, method: bytes, body: bytes
) -> None:
    async with served(monkeypatch, read_s=0.3) as address:
        assert b"did not arrive in time" in await until_closed(address, HELLO + headers(method=method) + body)


async def test_one_connection_too_many_is_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as address:
        opened = [await asyncio.open_connection(*address.split(":")) for _ in range(MOST)]
        for reader, writer in opened:
            writer.write(HELLO)
            await reader.readexactly(9)
        assert await until_closed(address, HELLO) == b""
        for _, writer in opened:
            writer.close()

        async def admits_another() -> bool:
            reader, writer = await asyncio.open_connection(*address.split(":"))
            writer.write(HELLO)
            first = b""
            with contextlib.suppress(ConnectionResetError):
                first = await reader.read(9)
            writer.close()
            return bool(first)

        await wait_until(admits_another)


async def test_probes_pass_a_flood_of_half_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch, most_calls=100) as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        writer.write(HELLO + b"".join(headers(stream) + half_body(stream) for stream in range(1, 41, 2)))
        await reader.readexactly(9)
        async with open_channel(address) as channel:
            for _ in range(5):
                assert await check(channel) == health_pb2.HealthCheckResponse.SERVING
        writer.close()


async def check(channel: grpc.aio.Channel) -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(), timeout=HANGS_AFTER_S)).status


async def test_one_watch_too_many_ends_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as address, open_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watches: list[Any] = []
        for _ in range(CALLS):
            watches.append(stub.Watch(health_pb2.HealthCheckRequest()))
            assert (await watches[-1].read()).status == health_pb2.HealthCheckResponse.SERVING
        assert await check(channel) == health_pb2.HealthCheckResponse.SERVING
        assert await watches[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert not any(watch.done() for watch in watches[1:])


async def test_reflection_answers_and_ends_without_a_next_request(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch, read_s=2.0) as address, open_channel(address) as channel:
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # pyright: ignore[reportArgumentType]
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        assert health.SERVICE_NAME in str(await call.read())
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_without_a_request_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with served(monkeypatch) as address:
        end = frame(0, END_STREAM, 1, b"")
        assert b"has no request" in await until_closed(address, HELLO + headers() + end)
