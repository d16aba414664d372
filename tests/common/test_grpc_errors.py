"""Errors that a caller raises for failed calls."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from services.common.channels import MAX_MESSAGE_BYTES, open_channel
from services.common.errors import TooLarge, WorkerLost
from services.common.grpc_errors import error_from_rpc
from tests.fixtures.wait import HANGS_AFTER_S


async def test_a_message_over_the_transport_limit_is_too_large() -> None:
    async def swallow(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return b""

    server = grpc.aio.server()  # takes 4 MiB
    handler = grpc.unary_unary_rpc_method_handler(swallow)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Swallow": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        for size in (
            MAX_MESSAGE_BYTES // 2,
            MAX_MESSAGE_BYTES + 1,
        ):  # one is refused by the server, the other is never sent
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary("/test.Test/Swallow")(bytes(size), timeout=HANGS_AFTER_S)
            error = error_from_rpc(caught.value, "thinker")
            assert isinstance(error, TooLarge)
            assert "thinker" in error.message
    await server.stop(0)


async def test_a_call_that_ends_during_a_send_is_a_lost_worker() -> None:
    """Either the call's end or the failed send may be reported first."""

    async def leave(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.UNAVAILABLE)

    async def send() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    server = grpc.aio.server()
    handler = grpc.stream_unary_rpc_method_handler(leave)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Leave": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    seen: set[grpc.StatusCode] = set()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        for _ in range(2000):  # about one in ten is reported in that order
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.stream_unary("/test.Test/Leave")(send(), timeout=HANGS_AFTER_S)
            assert isinstance(error_from_rpc(caught.value, "talker"), WorkerLost), caught.value
            seen.add(caught.value.code())
            if grpc.StatusCode.INTERNAL in seen:
                break
    await server.stop(0)
    assert grpc.StatusCode.INTERNAL in seen, seen


async def test_an_exhausted_peer_is_not_the_clients_mistake() -> None:
    async def refuse(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many pings")

    server = grpc.aio.server()
    handler = grpc.unary_unary_rpc_method_handler(refuse)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", {"Refuse": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary("/test.Test/Refuse")(b"", timeout=HANGS_AFTER_S)
    assert isinstance(error_from_rpc(caught.value, "thinker"), WorkerLost)
    await server.stop(0)
