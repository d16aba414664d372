"""How ServiceHost leaves: the delay before a drain, what it finishes, and what it cuts."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.v1 import common_pb2
from services.common.errors import Gone
from services.common.tensors.transfer import ThinkerBlobs, fetch_blob
from tests.common.hosted import hosted, status
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def test_a_drain_finishes_running_calls_and_refuses_new_ones():
    async with hosted() as (host, owner, channel):
        owner.store.put("slow", b"done", "turn")
        order: list[str] = []
        host.on_drain(lambda: order.append("stop taking"))
        serving = asyncio.create_task(host.serve(started=True))
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        while not order:
            await asyncio.sleep(0)
        owner.go_on.set()
        assert await call == b"done"
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_new_calls_are_served_during_the_shutdown_delay():
    async with hosted(shutdown_delay_s=600) as (host, owner, channel):
        owner.store.put("k", b"here", "turn")
        order: list[str] = []
        host.on_shutdown_delay(lambda: order.append("delay"))
        host.on_drain(lambda: order.append("drain"))
        serving = asyncio.create_task(host.serve(started=True))
        await wait_until(lambda: host._serving)  # pyright: ignore[reportPrivateUsage]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]

        async def is_unhealthy() -> bool:
            return await status(channel) == health_pb2.HealthCheckResponse.NOT_SERVING

        await wait_until(is_unhealthy)
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="k", size_bytes=4)
        assert await fetch_blob(stub, ref, peer="thinker", timeout_s=10) == b"here"
        assert order == ["delay"]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_the_drain_follows_the_shutdown_delay():
    async with hosted(shutdown_delay_s=0.05) as (host, _, _):
        order: list[str] = []
        host.on_drain(lambda: order.append("drain"))
        host.on_shutdown_delay(lambda: order.append("delay"))
        serving = asyncio.create_task(host.serve(started=True))
        await wait_until(lambda: host._serving)  # pyright: ignore[reportPrivateUsage]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)
        assert order == ["delay", "drain"]


async def test_a_host_that_refuses_calls_finishes_running_ones():
    async with hosted() as (host, owner, channel):
        owner.store.put("slow", b"done", "turn")
        host.on_drain(host.refuse_calls)
        host.on_drain(owner.go_on.wait)
        serving = asyncio.create_task(host.serve(started=True))
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def is_refused() -> bool:
            try:
                await health.Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        await wait_until(is_refused)
        owner.go_on.set()
        assert await call == b"done"
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_a_call_that_outlives_the_drain_ends_with_an_error():
    async with hosted(drain_s=0.05) as (host, owner, channel):
        host.on_drain(asyncio.Event().wait)
        host.on_cut(owner.go_on.set)
        serving = asyncio.create_task(host.serve(started=True))
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        stub = ThinkerBlobs(channel)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(Gone):  # nothing is stored under the key
            await call
        await asyncio.wait_for(serving, HANGS_AFTER_S)
