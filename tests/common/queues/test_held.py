"""Slots that each tenant holds, and limits on them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from services.common.queues import Group, QueueClient, QueueName, TenantTerms
from services.common.stages import PREPROCESS
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


@pytest.fixture
def queue(redis_server: RedisServer) -> BareQueue:
    return BareQueue(redis_server.client())


def held(queue: BareQueue) -> dict[str, int]:
    names = iter(queue.call_here("held"))
    return {tenant.decode(): int(slots) for tenant, slots in zip(names, names, strict=True)}


def test_a_tenant_gets_no_more_slots_than_it_may_hold(queue: BareQueue) -> None:
    for n in range(5):
        queue.enqueue(f"flood-{n}", tenant="flood", max_slots=2)
    queue.enqueue("urgent", tenant="flood", priority=1, max_slots=2)
    for n in range(3):
        queue.enqueue(f"other-{n}", tenant="other")
    assert queue.serve(slots=8) == ["urgent", "flood-0", "other-0", "other-1", "other-2"]
    assert held(queue) == {"flood": 2, "other": 3}
    assert queue.serve("worker-2", slots=8) == []
    assert queue.serve("worker-1", slots=1, held={"flood": 1, "other": 3}) == ["flood-1"]
    assert queue.serve("worker-1", slots=8, held={"other": 3}) == ["flood-2", "flood-3"]


def test_a_share_is_of_all_slots_and_at_least_one(queue: BareQueue) -> None:
    for n in range(9):
        queue.enqueue(f"flood-{n}", tenant="flood", max_share=0.25)
    assert len(queue.serve("worker-1", slots=2)) == 1
    assert len(queue.serve("worker-2", slots=10)) == 0
    assert len(queue.serve("worker-2", slots=10)) == 2  # a quarter of 12 slots


def test_a_tenant_that_is_alone_may_hold_all_slots_and_leaves_some_once_others_come(queue: BareQueue) -> None:
    share: dict[str, Any] = {"share_beside": 0.8}
    for n in range(9):
        queue.enqueue(f"slow-{n}", tenant="slow", **share)
    assert len(queue.serve("worker-1", slots=5)) == 5
    assert queue.serve("worker-1", slots=1, held={"slow": 4}, others=4) == ["slow-5"]
    queue.enqueue("other-0", tenant="other", **share)
    assert queue.serve("worker-1", slots=1, held={"slow": 4}, others=4) == ["other-0"]
    # The other has left, and may come again.
    assert queue.serve("worker-1", slots=1, held={"slow": 4}, others=4) == []
    assert queue.serve("worker-1", slots=2, held={"slow": 3}, others=3) == ["slow-6"]
    queue.redis.hset(queue.key("tenants"), "several", 0)  # a minute later
    assert queue.serve("worker-1", slots=2, held={"slow": 3}, others=3) == ["slow-7", "slow-8"]


async def test_slow_media_of_one_tenant_leave_a_slot_of_preprocess_to_another(cluster: Cluster) -> None:
    queue = QueueName(PREPROCESS, "tiny")
    gateway, worker = await cluster.gateway(), await cluster.worker(queue=queue, slots=2)
    with worker.open((await gateway.acquire(queue, spec("other"))).lease_id):
        pass
    with worker.open((await gateway.acquire(queue, spec("slow"))).lease_id):
        waits = asyncio.create_task(gateway.acquire(queue, spec("slow")))
        await wait_until(lambda: is_parked(gateway, queue))
        with worker.open((await gateway.acquire(queue, spec("other"))).lease_id):
            pass
        assert not waits.done()
    with worker.open((await waits).lease_id):
        pass


async def is_parked(gateway: QueueClient, queue: QueueName) -> bool:
    stats = await gateway.stats(queue)
    return (stats.depth, stats.busy) == (1, 1)


def test_tenants_of_a_group_get_no_more_slots_together_than_it_may_hold(queue: BareQueue) -> None:
    group: dict[str, Any] = {"group": "org", "group_max_slots": 2}
    for n in range(3):
        queue.enqueue(f"one-{n}", tenant="one", **group)
        queue.enqueue(f"two-{n}", tenant="two", **group)
        queue.enqueue(f"other-{n}", tenant="other")
    assert queue.serve(slots=8) == ["one-0", "two-0", "other-0", "other-1", "other-2"]
    assert held(queue) == {"one": 1, "two": 1, "/org": 2, "other": 3}
    assert queue.serve("worker-2", slots=8) == []
    assert queue.serve("worker-1", slots=1, held={"two": 1, "/org": 1}) == ["one-1"]
    assert queue.serve("worker-1", slots=8, held={}) == ["two-1", "one-2"]  # each in its turn
    assert held(queue) == {"one": 1, "two": 1, "/org": 2}
    queue.redis.zadd(queue.key("workers"), {"worker-1": 0})
    assert queue.serve("worker-2", slots=8) == ["two-2"]
    assert held(queue) == {"two": 1, "/org": 1}


def test_a_tenants_own_limit_holds_beside_its_groups(queue: BareQueue) -> None:
    group: dict[str, Any] = {"group": "org", "group_max_share": 0.5}  # of six slots
    for n in range(3):
        queue.enqueue(f"one-{n}", tenant="one", max_slots=1, **group)
        queue.enqueue(f"two-{n}", tenant="two", **group)
    queue.serve(slots=6)  # a new worker's slots count from its next call on
    assert held(queue) == {"one": 1, "/org": 1}
    queue.serve(slots=6, held={})
    assert held(queue) == {"one": 1, "two": 2, "/org": 3}


def test_a_full_group_whose_returned_tenants_leave_brings_back_others(queue: BareQueue) -> None:
    group: dict[str, Any] = {"group": "org", "group_max_slots": 1}
    queue.enqueue("holds", tenant="holds", **group)
    assert queue.serve("worker-1") == ["holds"]
    for n in range(20):
        queue.enqueue(f"of-{n}", tenant=f"tenant-{n}", **group)
    while queue.redis.zcard(queue.key("heads")):
        assert queue.serve("worker-2") == []
    assert queue.serve("worker-1", slots=0, others=1, held={}) == []  # the turn is over, and it takes no other
    back = [head.decode().rpartition("-")[2] for head in queue.redis.zrange(queue.key("heads"), 0, -1)]
    assert 0 < len(back) < 20
    queue.discard(*[f"of-{n}" for n in back])
    assert len(queue.serve("worker-2", slots=2)) == 1
    assert held(queue)["/org"] == 1


def test_a_turn_that_resumes_passes_the_limit(queue: BareQueue) -> None:
    queue.enqueue("first", tenant="flood", max_slots=1)
    assert queue.serve() == ["first"]
    queue.enqueue("next", tenant="flood", max_slots=1)
    queue.enqueue("resumed", tenant="flood", max_slots=1, mode="front")
    assert queue.serve(slots=2) == ["resumed"]


def test_a_worker_that_dies_holds_nothing(queue: BareQueue) -> None:
    for n in range(3):
        queue.enqueue(f"flood-{n}", tenant="flood", max_slots=1)
    assert queue.serve("doomed") == ["flood-0"]
    assert queue.serve("worker-2") == []
    queue.redis.zadd(queue.key("workers"), {"doomed": 0})
    assert queue.serve("worker-2") == ["flood-1"]
    assert held(queue) == {"flood": 1}


def test_a_grant_that_is_told_twice_is_counted_once(queue: BareQueue) -> None:
    queue.enqueue("first")
    for slots in (None, {}, {"acme": 0}):  # as a retry, and as calls that tell all
        assert queue.take(leases=["lease"], held=slots) == ["lease"]
        assert held(queue) == {"acme": 1}


async def test_workers_tell_what_tenants_hold(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway = await cluster.gateway()
    workers = [await cluster.worker(f"worker-{n}", slots=2) for n in range(2)]
    by_id = {worker.worker_id: worker for worker in workers}
    with ExitStack() as calls:
        for tenant in ("acme", "acme", "beta"):
            grant = await gateway.acquire(QUEUE, spec(tenant))
            calls.enter_context(by_id[grant.worker_id].open(grant.lease_id))
        await wait_until(lambda: holds(gateway, {"acme": 2, "beta": 1}))
        with redis_server.client() as redis:
            redis.flushall()
        await wait_until(lambda: holds(gateway, {"acme": 2, "beta": 1}))
    await wait_until(lambda: holds(gateway, {}))


async def holds(gateway: QueueClient, slots: dict[str, int]) -> bool:
    return await gateway.held(QUEUE) == slots


async def test_a_tenant_that_never_ends_its_turns_leaves_slots_to_others(cluster: Cluster) -> None:
    gateway = await cluster.gateway(tenants={"slow": TenantTerms(max_share=0.5)})
    worker = await cluster.worker(slots=4)
    with ExitStack() as never_ended:
        slow = [asyncio.create_task(gateway.acquire(QUEUE, spec("slow"))) for _ in range(6)]
        await wait_until(lambda: holds(gateway, {"slow": 2}))
        for task in slow:
            if task.done():
                never_ended.enter_context(worker.open(task.result().lease_id))
        served = Counter[str]()
        for _ in range(6):
            grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec("quick")), HANGS_AFTER_S)
            with worker.open(grant.lease_id):
                served["quick"] += 1
        assert served["quick"] == 6
        assert sum(task.done() for task in slow) == 2
        await wait_until(lambda: depth_is(gateway, 4))
    for task in slow:
        grant = await asyncio.wait_for(task, HANGS_AFTER_S)
        gateway.give_back(grant)


async def test_a_group_that_never_ends_its_turns_leaves_slots_to_others(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    terms = TenantTerms(group=Group("org", max_share=0.5))
    gateway = await cluster.gateway(tenants={"one": terms, "two": terms})
    worker = await cluster.worker(slots=4)
    both = {"one": 1, "two": 1, "/org": 2}
    with ExitStack() as never_ended:
        slow = [asyncio.create_task(gateway.acquire(QUEUE, spec(tenant))) for tenant in ("one", "two") * 3]
        await wait_until(lambda: holds(gateway, both))
        for task in slow:
            if task.done():
                never_ended.enter_context(worker.open(task.result().lease_id))
        for _ in range(4):
            grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec("quick")), HANGS_AFTER_S)
            with worker.open(grant.lease_id):
                pass
        await wait_until(lambda: holds(gateway, both))
        with redis_server.client() as redis:
            redis.flushall()
        await wait_until(lambda: holds(gateway, both))  # as the worker tells it
    for task in slow:
        gateway.give_back(await asyncio.wait_for(task, HANGS_AFTER_S))
    await wait_until(lambda: holds(gateway, {}))


async def test_terms_of_a_tenant_reach_the_queue(cluster: Cluster) -> None:
    terms = {"first": TenantTerms(priority=1), "*": TenantTerms(priority=-1)}
    gateway, ordinary = await cluster.gateway(tenants=terms), await cluster.gateway("gateway-2")
    waiting = [asyncio.create_task(gateway.acquire(QUEUE, spec("any")))]
    await wait_until(lambda: depth_is(gateway, 1))
    waiting.append(asyncio.create_task(ordinary.acquire(QUEUE, spec("any"))))
    await wait_until(lambda: depth_is(gateway, 2))
    waiting.append(asyncio.create_task(gateway.acquire(QUEUE, spec("first"))))
    await wait_until(lambda: depth_is(gateway, 3))
    worker = await cluster.worker()
    for task in reversed(waiting):
        with worker.open((await asyncio.wait_for(task, HANGS_AFTER_S)).lease_id):
            pass
