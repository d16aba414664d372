"""Affinity: a conversation returns to the worker with its cache, unless it would have to wait."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

from services.common.queues import SlotKeeper
from services.common.queues.keys import Keyspace
from services.common.redis_client import RedisClient
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def two_workers(cluster: Cluster) -> dict[str, SlotKeeper]:
    workers = {name: await cluster.worker(name) for name in ("worker-1", "worker-2")}
    redis = await cluster.redis()
    await wait_until(lambda: all_idle(redis, workers))
    return workers


async def test_a_conversation_stays_with_its_worker_while_that_is_free(cluster: Cluster) -> None:
    gateway, workers = await cluster.gateway(), await two_workers(cluster)
    redis = await cluster.redis()
    served_by: dict[str, set[str]] = {"a": set(), "b": set()}
    for turn in range(6):
        for talk in served_by:
            # Two other tickets at once ensure that neither worker is always notified first.
            grant = await gateway.acquire(QUEUE, spec(affinity=talk))
            served_by[talk].add(grant.worker_id)
            with workers[grant.worker_id].open(grant.lease_id):
                if turn == 0 and talk == "a":
                    other = await gateway.acquire(QUEUE, spec(affinity="b"))
                    served_by["b"].add(other.worker_id)
                    with workers[other.worker_id].open(other.lease_id):
                        pass
            await wait_until(lambda: all_idle(redis, workers))
    assert len(served_by["a"]) == len(served_by["b"]) == 1
    assert served_by["a"] != served_by["b"]


async def all_idle(redis: RedisClient, workers: dict[str, SlotKeeper]) -> bool:
    """Return whether Redis also shows all their slots as free."""
    idle = await redis.zcard(Keyspace(redis).queue_key(QUEUE, "idle"))
    return idle == len(workers) and not any(worker.busy for worker in workers.values())


async def test_a_conversation_does_not_wait_for_its_worker_while_another_is_free(cluster: Cluster) -> None:
    gateway, workers = await cluster.gateway(affinity_wait_s=30.0), await two_workers(cluster)
    first = await gateway.acquire(QUEUE, spec(affinity="talk"))
    with workers[first.worker_id].open(first.lease_id):
        second = await asyncio.wait_for(gateway.acquire(QUEUE, spec(affinity="talk")), HANGS_AFTER_S)
    assert second.worker_id != first.worker_id


async def test_a_conversations_worker_takes_it_before_older_tickets(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(affinity_wait_s=30.0), await cluster.worker()
    first = await gateway.acquire(QUEUE, spec(affinity="talk"))
    with worker.open(first.lease_id):
        older = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        talk = asyncio.create_task(gateway.acquire(QUEUE, spec(affinity="talk")))
        await wait_until(lambda: depth_is(gateway, 2))
    grant = await talk
    assert not older.done()
    with worker.open(grant.lease_id):
        pass
    await older


async def test_after_a_short_wait_any_worker_takes_it(cluster: Cluster) -> None:
    gateway, workers = await cluster.gateway(affinity_wait_s=0.2), await two_workers(cluster)
    with ExitStack() as held:
        first = await gateway.acquire(QUEUE, spec(affinity="talk"))
        held.enter_context(workers[first.worker_id].open(first.lease_id))
        second = await gateway.acquire(QUEUE, spec())
        with workers[second.worker_id].open(second.lease_id):
            began_s = time.monotonic()
            talk = asyncio.create_task(gateway.acquire(QUEUE, spec(affinity="talk")))
            await wait_until(lambda: depth_is(gateway, 1))
        grant = await asyncio.wait_for(talk, HANGS_AFTER_S)
        waited_s = time.monotonic() - began_s
    assert grant.worker_id == second.worker_id
    assert waited_s > 0.15


def test_a_conversation_of_a_lost_worker_is_open_to_all(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.enqueue("first", affinity="talk")
        assert queue.serve("worker-1") == ["first"]
        queue.enqueue("second", affinity="talk")
        assert queue.serve("worker-2") == []
        queue.call_here("close_worker", worker="worker-1")
        assert queue.serve("worker-2") == ["second"]
        queue.call_here("close_worker", worker="worker-2")
        queue.enqueue("third", affinity="talk")
        assert queue.serve("worker-3") == ["third"]


def test_a_higher_priority_in_the_shared_queue_goes_first(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.enqueue("first", affinity="talk")
        queue.serve("worker-1")
        queue.enqueue("talk", affinity="talk")
        queue.enqueue("urgent", priority=1)
        assert queue.serve("worker-1", 2) == ["urgent", "talk"]
