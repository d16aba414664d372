"""The health probe for containers, run as a process against a real health service."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc


class Served:
    """Run a gRPC server with only a health service."""

    def __init__(self, port: int, servicer: Any) -> None:
        self.port = port
        self._servicer = servicer

    async def set(self, status: str) -> None:
        await self._servicer.set("", health_pb2.HealthCheckResponse.ServingStatus.Value(status))


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    server = grpc.aio.server()
    servicer: Any = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield Served(port, servicer)
    await server.stop(0)


async def probe(*arguments: str, **variables: str) -> tuple[int | None, str]:
    """Return (exit status, standard error)."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services.common.health_probe", *arguments),
        env=environ | variables,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    return process.returncode, said.decode()


async def test_a_serving_service_is_healthy_on_its_configured_port(served: Served) -> None:
    await served.set("SERVING")
    assert await probe(ANTIPHON_GRPC_PORT=str(served.port)) == (0, "")


async def test_a_service_that_is_not_ready_is_reported_unhealthy(served: Served) -> None:
    await served.set("NOT_SERVING")
    status, said = await probe(f"127.0.0.1:{served.port}")
    assert (status, said) == (1, f"127.0.0.1:{served.port}: NOT_SERVING\n")


async def test_a_missing_service_is_unhealthy(served: Served) -> None:
    status, said = await probe("127.0.0.1:1")
    assert (status, said) == (1, "127.0.0.1:1: no answer: UNAVAILABLE\n")


async def test_the_probe_needs_an_address_or_a_port() -> None:
    status, said = await probe()
    assert status == 2
    assert "ANTIPHON_GRPC_PORT" in said
