"""Redis is down, hangs, or loses its data: running calls continue, new ones are refused, and all recovers by itself."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.common.errors import Unavailable
from services.common.queues import Grant, QueueClient
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until


async def refused(gateway: QueueClient) -> float:
    """Assert that a request for a slot is refused as Unavailable. Return how long that took, in seconds."""
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as error:
        await gateway.acquire(QUEUE, spec())
    assert error.value.retry_after_s is not None
    assert error.value.retry_after_s > 0
    return time.monotonic() - began_s


async def granted_again(gateway: QueueClient) -> bool:
    try:
        grant = await gateway.acquire(QUEUE, spec())
    except Unavailable:
        return False
    gateway.give_back(grant)
    return True


async def three_waiting(gateway: QueueClient) -> list[asyncio.Task[Grant]]:
    """Queue three tickets in this order."""
    waiting: list[asyncio.Task[Grant]] = []
    for number in range(3):
        waiting.append(asyncio.create_task(gateway.acquire(QUEUE, spec(f"tenant-{number}"))))
        await wait_until(lambda: depth_is(gateway, len(waiting)))
    return waiting


async def test_redis_dies_and_comes_back_empty(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = await three_waiting(gateway)
        redis_server.kill()
        assert await refused(gateway) < 2
        assert worker.busy == 1  # the open call is not affected
        assert not any(task.done() for task in waiting)
        redis_server.start()
        await wait_until(lambda: depth_is(gateway, 3))
        assert not any(task.done() for task in waiting)
    for task in waiting:  # in the order of arrival
        grant = await asyncio.wait_for(task, 10)
        with worker.open(grant.lease_id):
            assert worker.busy == 1
    assert [info.worker_id for info in await gateway.workers(QUEUE)] == ["worker-1"]
    await wait_until(lambda: granted_again(gateway))


async def test_redis_loses_its_data(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = await three_waiting(gateway)
        with redis_server.client() as redis:
            redis.flushall()
        await wait_until(lambda: depth_is(gateway, 3))
    for task in waiting:
        grant = await asyncio.wait_for(task, 10)
        with worker.open(grant.lease_id):
            assert worker.busy == 1


async def test_data_lost_between_grant_and_call_loses_nothing(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    grant = await gateway.acquire(QUEUE, spec())
    with redis_server.client() as redis:
        redis.flushall()
    with worker.open(grant.lease_id):
        assert worker.busy == 1


async def test_redis_hangs(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(gateway_ttl_s=2.0), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        redis_server.pause()
        try:
            assert await refused(gateway) < 6  # the first call detects the hang
            assert await refused(gateway) < 0.5
            assert worker.busy == 1
        finally:
            redis_server.resume()
        # The heartbeats were late: the ticket may have been dropped, and is then queued again.
        await wait_until(lambda: depth_is(gateway, 1))
    grant = await asyncio.wait_for(waiting, 10)
    with worker.open(grant.lease_id):
        pass
    await wait_until(lambda: granted_again(gateway))
    await wait_until(lambda: worker.free == 1)


async def test_a_drained_worker_becomes_idle_without_redis(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=0.3)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        redis_server.kill()
        worker.drain()
        idle = asyncio.create_task(worker.wait_idle())
    await asyncio.wait_for(idle, 10)
    redis_server.start()


async def test_a_drained_worker_is_not_idle_while_a_grant_may_be_on_its_way(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        await wait_until(lambda: worker.busy == 1)
        redis_server.pause()
    try:
        assert await refused(gateway) < 6  # the worker has sent its request and has no answer
        worker.drain()
        idle = asyncio.create_task(worker.wait_idle())
        done, _ = await asyncio.wait([idle], timeout=0.2)
        assert not done
    finally:
        redis_server.resume()
    await asyncio.wait_for(idle, 10)


async def test_a_gateway_that_stops_leaves_nothing_behind(cluster: Cluster) -> None:
    looks = await cluster.gateway("looks")
    stops = QueueClient(await cluster.redis(), "stops")
    run = asyncio.create_task(stops.run())
    waiting = asyncio.create_task(stops.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(looks, 1))
    run.cancel()
    with pytest.raises(Unavailable):
        await waiting
    await asyncio.gather(run, return_exceptions=True)
    assert await depth_is(looks, 0)
    with pytest.raises(Unavailable):
        await stops.acquire(QUEUE, spec())
    assert await (await cluster.redis()).keys("*stops*") == []


async def test_a_stopped_worker_is_unlisted_at_once(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with cluster.alone() as own:
        await own.worker()
        await wait_until(lambda: shows(gateway, "worker-1"))
    assert await gateway.workers(QUEUE) == []
    assert await gateway.models() == {}


async def shows(gateway: QueueClient, *worker_ids: str) -> bool:
    return [info.worker_id for info in await gateway.workers(QUEUE)] == list(worker_ids)
