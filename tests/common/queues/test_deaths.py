"""Processes killed at each point of a ticket's life leave no ticket stuck and lose no slot."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import Gone
from services.common.queues.keys import Keyspace
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.common.queues.processes import kill, read_words, started
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def test_tickets_of_a_gateway_that_died_waiting_are_dropped(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with started("gateway", cluster.url, "3") as doomed:
        assert await read_words(doomed) == ["waiting"]
        await wait_until(lambda: depth_is(gateway, 3))
        await kill(doomed)
    mine = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 1))
    worker = await cluster.worker(grant_timeout_s=30)
    with worker.open((await mine).lease_id):
        assert worker.busy == 1
    assert (worker.free, worker.busy) == (1, 0)


async def test_a_slot_granted_to_a_dead_gateway_is_freed(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=0.5)
    async with started("gateway", cluster.url, "1") as doomed:
        words = await read_words(doomed)
        while words[0] != "granted":
            words = await read_words(doomed)
        await kill(doomed)
    grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec()), HANGS_AFTER_S)
    with pytest.raises(Gone), worker.open(words[2]):
        pass
    with worker.open(grant.lease_id):
        assert (worker.free, worker.busy) == (0, 1)


async def test_a_ticket_whose_worker_died_before_the_grant_is_taken_by_another(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with started("worker", cluster.url, "doomed", "4") as doomed:
        assert await read_words(doomed) == ["ready"]
        worker = await cluster.worker(slots=2)
        await wait_until(lambda: shown(cluster, "worker-1"))
        await kill(doomed)  # it is notified first: it has more free slots, and its heartbeat is still valid
    async with asyncio.timeout(HANGS_AFTER_S):
        grants = await asyncio.gather(*(gateway.acquire(QUEUE, spec()) for _ in range(2)))
    assert {grant.worker_id for grant in grants} == {"worker-1"}
    await wait_until(lambda: worker.busy == 2)


async def shown(cluster: Cluster, worker_id: str) -> bool:
    redis = await cluster.redis()
    return await redis.zscore(Keyspace(redis).queue_key(QUEUE, "idle"), worker_id) is not None


async def test_a_ticket_whose_worker_died_after_the_grant_is_first_in_its_class(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with started("worker", cluster.url, "doomed", "1") as doomed:
        assert await read_words(doomed) == ["ready"]
        grant = await gateway.acquire(QUEUE, spec(cost=500))
        assert grant.worker_id == "doomed"
        others = [asyncio.create_task(gateway.acquire(QUEUE, spec(f"tenant-{n}"))) for n in range(3)]
        await wait_until(lambda: depth_is(gateway, 3))
        await kill(doomed)
    gateway.give_back(grant)
    again = asyncio.create_task(gateway.reacquire(grant))
    await wait_until(lambda: depth_is(gateway, 4))
    worker = await cluster.worker()
    second = await again
    assert second.worker_id == "worker-1"
    assert second.lease_id != grant.lease_id
    assert not any(other.done() for other in others)
    with worker.open(second.lease_id):
        pass
    for _ in others:
        done, _ = await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED)
        for other in done:
            others = [task for task in others if task is not other]
            with worker.open(other.result().lease_id):
                pass


async def test_a_dead_worker_is_unlisted(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with started("worker", cluster.url, "doomed", "1") as doomed:
        assert await read_words(doomed) == ["ready"]
        assert [info.worker_id for info in await gateway.workers(QUEUE)] == ["doomed"]
        await kill(doomed)
    await wait_until(lambda: no_workers(cluster))
    assert await gateway.models() == {}


async def no_workers(cluster: Cluster) -> bool:
    gateway = await cluster.gateway("looks")
    return await gateway.workers(QUEUE) == []


async def test_a_lost_grant_is_sent_again_with_the_heartbeat(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway = await cluster.gateway(heartbeat_s=0.2)
    waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 1))
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        news = queue.take_and_lose_the_news("worker-1", "lease-1")
        grant = await asyncio.wait_for(waiting, HANGS_AFTER_S)
        assert (grant.worker_id, grant.lease_id) == ("worker-1", "lease-1")
        # The late message must not count as a second grant, which would be returned.
        redis.rpush(queue.shard_key("grants", "gateway-1"), news)
        await wait_until(lambda: not redis.exists(queue.shard_key("grants", "gateway-1")))
        another = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        another.cancel()
        await wait_until(lambda: depth_is(gateway, 0))  # so everything discarded before it is gone
        assert redis.hget(queue.key("ticket", grant.ticket_id), "lease") == b"lease-1"
