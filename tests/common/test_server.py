"""ServiceHost on a real server: health, reflection, and the end after a failure."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from antiphon.v1 import common_pb2
from services.common.errors import Gone
from services.common.server import ServiceFailedError
from services.common.tensors.transfer import ThinkerBlobs, fetch_blob
from tests.common.hosted import NAME, hosted, status
from tests.fixtures.wait import HANGS_AFTER_S


async def test_health_is_serving_only_once_the_service_is_ready(tmp_path: Path):
    async with hosted(tmp_path / "ready.json") as (host, _, channel):
        for name in ("", NAME):
            assert await status(channel, name) == health_pb2.HealthCheckResponse.NOT_SERVING
        await host.become_ready()
        for name in ("", NAME):
            assert await status(channel, name) == health_pb2.HealthCheckResponse.SERVING
        ports = json.loads((tmp_path / "ready.json").read_text())
        assert ports == {"grpc": host.port, "metrics": host.metrics_port}


async def test_a_ready_service_freezes_its_objects_for_the_collector():
    gc.unfreeze()
    async with hosted() as (host, _, _):
        assert gc.get_freeze_count() == 0
        await host.become_ready()
        assert gc.get_freeze_count() > 10_000


async def test_reflection_lists_the_service_and_describes_its_methods():
    async with hosted() as (_, _, channel):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # pyright: ignore[reportArgumentType]

        async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)

        answers = [a async for a in stub.ServerReflectionInfo(ask())]
        assert NAME in {s.name for s in answers[0].list_services_response.service}
        assert any(b"Generate" in f for f in answers[1].file_descriptor_response.file_descriptor_proto)


async def test_a_service_that_cannot_continue_exits_with_a_failure():
    async with hosted() as (host, _, channel):
        serving = asyncio.create_task(host.serve(started=True))
        while await status(channel) != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0)
        host.fail("the engine died")
        with pytest.raises(ServiceFailedError):
            await serving


async def test_callers_of_a_failed_service_hear_why():
    """Its calls end by the same failure, a moment after the process knows of it."""
    async with hosted() as (host, owner, channel):
        loop = asyncio.get_running_loop()
        host.on_drain(lambda: loop.call_later(0.05, owner.go_on.set))
        serving = asyncio.create_task(host.serve(started=True))
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        stub = ThinkerBlobs(channel)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host.fail("the engine died")
        with pytest.raises(Gone):  # nothing is stored under the key
            await call
        with pytest.raises(ServiceFailedError):
            await asyncio.wait_for(serving, HANGS_AFTER_S)
