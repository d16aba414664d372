"""Queues scaled to zero: they are remembered, and a ticket waits for the first worker."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName
from services.common.queues.keys import QUEUES
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until


async def a_worker_was_here(cluster: Cluster, gateway: QueueClient) -> None:
    async with cluster.alone() as own:
        await own.worker()
        await wait_until(partial(is_shown, gateway))


async def is_shown(gateway: QueueClient) -> bool:
    """Return whether the worker's queue and the list of queues show it."""
    return bool(await gateway.workers(QUEUE)) and "tiny" in await gateway.models()


async def test_a_ticket_waits_for_a_first_worker_after_any_idle_time(cluster: Cluster) -> None:
    gateway = await cluster.gateway(cold_start_s=30.0, worker_wait_s=0.01, heartbeat_s=0.1)
    first = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 1))
    second = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 2))
    worker = await cluster.worker(slots=2)
    for grant in await asyncio.gather(first, second):
        with worker.open(grant.lease_id):
            pass


async def test_a_ticket_is_refused_if_no_worker_starts(cluster: Cluster) -> None:
    gateway = await cluster.gateway(cold_start_s=0.3, heartbeat_s=0.1)
    with pytest.raises(Unavailable) as refused:
        await gateway.acquire(QUEUE, spec())
    assert refused.value.code == "no_worker"
    assert refused.value.retry_after_s == 0.3
    await wait_until(lambda: depth_is(gateway, 0))


async def test_a_ticket_that_waits_for_a_busy_worker_is_not_refused(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(cold_start_s=0.2, heartbeat_s=0.05), await cluster.worker()
    with worker.open((await gateway.acquire(QUEUE, spec())).lease_id):
        waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        done, _ = await asyncio.wait([waiting], timeout=0.6)
        assert not done
    with worker.open((await waiting).lease_id):
        pass


async def test_a_model_stays_known_while_its_workers_may_return(cluster: Cluster) -> None:
    gateway, ordinary = await cluster.gateway(cold_start_s=30.0), await cluster.gateway("gateway-2")
    await a_worker_was_here(cluster, gateway)
    served = (await gateway.models())["tiny"]
    assert (served.stages, served.asleep) == (frozenset(), {"thinker"})
    assert served.card.max_model_len == 128
    assert await ordinary.models() == {}
    await cluster.worker("worker-2")
    await wait_until(partial(is_shown, gateway))
    served = (await gateway.models())["tiny"]
    assert (served.stages, served.asleep) == ({"thinker"}, frozenset())


async def test_a_stage_whose_workers_all_drain_is_asleep(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(cold_start_s=30.0), await cluster.worker(slots=3)
    with worker.open((await gateway.acquire(QUEUE, spec())).lease_id):
        await wait_until(partial(is_shown, gateway))
        assert (await gateway.models())["tiny"].asleep == frozenset()
        worker.drain()
        await wait_until(partial(drains, gateway))
        stats = await gateway.stats(QUEUE)
        assert (stats.workers, stats.slots, stats.busy) == (1, 3, 1)
        assert (stats.draining_workers, stats.draining_slots, stats.draining_busy) == (1, 3, 1)
        served = (await gateway.models())["tiny"]
        assert (served.stages, served.asleep) == (frozenset(), {"thinker"})


async def drains(gateway: QueueClient) -> bool:
    return any(worker.draining for worker in await gateway.workers(QUEUE))


async def test_a_queue_is_remembered_while_someone_refreshes_it(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway = await cluster.gateway(cold_start_s=30.0)
    await a_worker_was_here(cluster, gateway)
    live = LiveWorkers(await cluster.redis(), QueueScript(await cluster.redis()))
    with redis_server.client() as redis:
        card = BareQueue(redis).key("card")
        redis.pexpire(card, 5_000)
        redis.zadd(QUEUES, {str(QUEUE): 0})  # as if it had expired
        assert await live.queues() == []
        await live.remember(QUEUE)
        assert redis.pttl(card) > 3_000_000
        assert await live.queues() == [QUEUE]
        assert (await live.stats(QUEUE)).known
        redis.delete(card)
        redis.zrem(QUEUES, str(QUEUE))
        await live.remember(QUEUE)
        assert await live.queues() == []
        assert not (await live.stats(QUEUE)).known


async def test_an_announced_turn_is_counted_before_its_ticket(cluster: Cluster) -> None:
    gateway, ordinary = await cluster.gateway(cold_start_s=0.3), await cluster.gateway("gateway-2")
    talker = QueueName("talker", "tiny")
    await ordinary.wake(talker)
    assert not (await gateway.stats(talker)).woken
    await gateway.wake(talker)
    assert (await gateway.stats(talker)).woken
    await wait_until(partial(is_forgotten, gateway, talker))


async def is_forgotten(gateway: QueueClient, queue: QueueName) -> bool:
    return not (await gateway.stats(queue)).woken


def test_refusals_for_lack_of_slots_are_counted(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.enqueue("first")
        queue.take(slots=1, held_ms=10_000)
        for n in range(5):
            assert queue.enqueue(f"hasty-{n}", remaining_ms=1_000)[0] == b"late"
        *_, refusals, hold_ms = queue.call_here("stats")
        assert float(refusals) == pytest.approx(5, rel=0.1)
        assert float(hold_ms) == 10_000


def test_hold_times_are_averaged_over_closed_leases(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        for held_ms in (1_000, 2_000, 6_000):
            queue.take(held_ms=held_ms)
        assert float(queue.call_here("stats")[-1]) == pytest.approx(3_000, rel=0.01)
