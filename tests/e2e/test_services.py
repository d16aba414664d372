"""Each service of a running stack: reflection, health, metrics and its processes.

That each ends with status 0 on SIGTERM, tests/helm/test_rendered_services.py shows.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from services.common.queues import QueueClient, QueueName
from services.common.redis_client import connect
from tests.e2e.idle import scrape
from tests.e2e.workers import all_ready
from tests.fixtures.processes import children
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S

METHODS = {
    "gateway": {"Converse"},
    "preprocess": {"Prepare", "Cut", "Fetch", "Release"},
    "thinker": {"Generate", "Fetch", "Release"},
    "talker": {"Speak"},
}


async def address_of(stack: Stack, name: str) -> str:
    """Return where the service's gRPC server listens: the gateway's is told, a worker's is in its queue."""
    if name == "gateway":
        return stack.grpc_address
    redis = connect(stack.redis_url)
    try:
        (worker,) = await QueueClient(redis, "looks").workers(QueueName(name, stack.model))
    finally:
        await redis.aclose()
    return worker.address


async def described_methods(channel: Any, service: str) -> set[str]:
    """Return the method names that reflection gives a client without our protos."""
    from google.protobuf.descriptor_pb2 import FileDescriptorProto

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=service)

    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    listed, described = [answer async for answer in stub.ServerReflectionInfo(ask(), timeout=HANGS_AFTER_S)]
    assert service in {entry.name for entry in listed.list_services_response.service}
    files = [FileDescriptorProto.FromString(f) for f in described.file_descriptor_response.file_descriptor_proto]
    return {m.name for f in files for s in f.service if f"{f.package}.{s.name}" == service for m in s.method}


@pytest.mark.parametrize("name", list(METHODS))
async def test_a_service_serves_reflection_health_and_metrics(name: str, stack: Stack) -> None:
    await all_ready(stack)
    async with grpc.aio.insecure_channel(await address_of(stack, name)) as channel:
        service = f"antiphon.v1.{name.capitalize()}"
        assert await described_methods(channel, service) == METHODS[name]
        health: Any = health_pb2_grpc.HealthStub(channel)
        for asked in ("", service):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=asked), timeout=HANGS_AFTER_S)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    assert f"antiphon_{name}_" in await scrape(stack, name)


async def test_a_thinker_has_one_child(stack: Stack) -> None:
    """Its engine's core, forked: spawning would also start Python's resource tracker."""
    await all_ready(stack)
    (core,) = children(stack.pids["thinker"])
    assert _title(core) == "VLLM::EngineCore"


def _title(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_text().strip("\0")
