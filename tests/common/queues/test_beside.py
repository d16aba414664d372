"""Batches beside others: few slots while others are there, all that are free otherwise."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from services.common.queues import QueueClient, QueueLimits, TenantTerms
from services.common.queues.slots import Slots
from services.common.queues.tickets import PriorityClass
from services.scaler.watch import load_from
from tests.common.queues.bare import BareQueue, take_arguments
from tests.common.queues.conftest import QUEUE, Cluster, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

BATCH, LOWEST = int(PriorityClass.BATCH), int(PriorityClass.LOWEST)
QUIET_MS = 60_000


@pytest.fixture
def queue(redis_server: RedisServer) -> BareQueue:
    """A queue that has granted a batch's ticket, so that none is granted because the last was long ago."""
    queue = BareQueue(redis_server.client())
    queue.every_ms = 3_600_000
    note(queue, "batch", ago_ms=0)
    return queue


def note(queue: BareQueue, what: str, ago_ms: int) -> None:
    """Set when others were last there, or when a batch's ticket was last granted."""
    now_s, _ = queue.redis.time()
    queue.redis.hset(queue.key("beside"), what, now_s * 1000 - ago_ms)
    queue.redis.expire(queue.key("beside"), 3600)


def batch(queue: BareQueue, *tickets: str, **terms: Any) -> None:
    terms = {"tenant": "bulk", "priority": BATCH} | terms
    for ticket in tickets:
        queue.enqueue(ticket, **terms)


def held_by_batches(queue: BareQueue) -> int:
    return int(queue.redis.hget(queue.key("sums"), "batch") or 0)


def test_batches_take_all_slots_that_nobody_else_wants(queue: BareQueue) -> None:
    batch(queue, "one", "two", "three")
    assert queue.serve(slots=3) == ["one", "two", "three"]
    assert held_by_batches(queue) == 3


def test_beside_others_batches_hold_a_part_of_what_those_hold(queue: BareQueue) -> None:
    queue.share = 0.5
    batch(queue, "one", "two", "three")
    batch(queue, "four", priority=LOWEST)
    assert queue.serve(slots=2, others=1) == []
    assert queue.serve(slots=2, others=2) == ["one"]
    assert queue.serve("worker-2", slots=3, others=2) == ["two"]  # of four slots
    assert held_by_batches(queue) == 2
    assert queue.serve("worker-2", slots=3, others=2, batch=1) == []


def test_slots_granted_in_the_same_call_count(queue: BareQueue) -> None:
    queue.share = 0.5
    batch(queue, "one", "two")
    for n in range(2):
        queue.enqueue(f"other-{n}")
    assert queue.serve(slots=4) == ["other-0", "other-1", "one"]


def test_a_ticket_of_others_that_waits_keeps_batches_away(queue: BareQueue) -> None:
    queue.share = 0.9
    queue.redis.set(queue.key("affinity", "talk"), "busy", ex=3600)
    queue.take("busy", leases=[])
    queue.enqueue("other", affinity="talk")  # it waits for the busy worker alone
    batch(queue, "one")
    assert queue.serve() == []
    queue.discard("other")
    assert queue.serve() == ["one"]


def test_others_count_for_a_moment_after_they_left(queue: BareQueue) -> None:
    queue.quiet_ms = QUIET_MS
    batch(queue, "one")
    queue.take(slots=1, others=1)
    again_ms, granted = queue.ask("worker-1", ["lease"])
    assert granted == []
    assert 0 < again_ms <= QUIET_MS
    note(queue, "others", ago_ms=QUIET_MS)
    assert queue.serve() == ["one"]


@pytest.mark.parametrize("leaves", ["client", "gateway", "deadline"])
def test_a_ticket_that_never_got_a_slot_counts_until_it_left(queue: BareQueue, leaves: str) -> None:
    queue.quiet_ms = QUIET_MS
    queue.enqueue("other", gateway="gateway-2")
    batch(queue, "one")
    note(queue, "others", ago_ms=2 * QUIET_MS)
    if leaves == "client":
        queue.discard("other")
    elif leaves == "gateway":
        queue.gateway_dies("gateway-2")
    else:
        queue.redis.zadd(queue.key("deadlines"), {"other": 0}, xx=True)
    assert queue.serve() == []


def test_a_dead_worker_holds_no_slots_of_batches_and_was_there_a_moment_ago(queue: BareQueue) -> None:
    queue.share, queue.quiet_ms = 0.5, QUIET_MS
    batch(queue, "one", "two")
    assert queue.serve("doomed", slots=1, others=2) == ["one"]
    note(queue, "others", ago_ms=2 * QUIET_MS)
    queue.redis.zadd(queue.key("workers"), {"doomed": 0})
    assert queue.serve() == []
    assert held_by_batches(queue) == 0
    note(queue, "others", ago_ms=2 * QUIET_MS)
    assert queue.serve() == ["two"]


def test_a_queue_that_knows_of_nothing_waits_first(queue: BareQueue) -> None:
    queue.quiet_ms = QUIET_MS
    batch(queue, "one")
    assert queue.serve() == []
    assert queue.redis.hexists(queue.key("beside"), "others")


def test_where_the_share_is_no_slot_one_begins_now_and_then(queue: BareQueue) -> None:
    batch(queue, "one", "two", "three")
    note(queue, "batch", ago_ms=queue.every_ms - 50_000)
    again_ms, granted = queue.ask("worker-1", ["a", "b"], others=1)
    assert granted == []
    assert 0 < again_ms <= 50_000
    note(queue, "batch", ago_ms=queue.every_ms)
    assert queue.serve(slots=2, others=1) == ["one"]
    note(queue, "batch", ago_ms=queue.every_ms)
    assert queue.serve(slots=2, others=1, batch=1) == []  # one at a time
    assert queue.serve(slots=2, others=1) == ["two"]


def test_a_turn_that_has_or_had_a_slot_passes(queue: BareQueue) -> None:
    queue.take("busy", leases=[], others=1)
    batch(queue, "one", "two")
    batch(queue, "three", priority=LOWEST)
    assert queue.serve() == []
    batch(queue, "resumes", priority=LOWEST, mode="front")
    batch(queue, "continues", continues=True)
    batch(queue, "put back", mode="again", continues=True)
    assert queue.serve(slots=5) == ["continues", "put back", "resumes"]
    assert held_by_batches(queue) == 3


def test_a_grant_of_a_batch_that_is_told_twice_is_counted_once(queue: BareQueue) -> None:
    batch(queue, "one")
    for held in (None, {}, {"bulk": 0}):
        assert queue.take(leases=["lease"], held=held) == ["lease"]
        assert held_by_batches(queue) == 1


def test_an_open_lease_whose_grant_was_not_heard_of_is_looked_up(queue: BareQueue) -> None:
    batch(queue, "one")
    assert queue.take(leases=["lease"]) == ["lease"]
    asked = take_arguments("worker-1", ["other"], held={}) | {
        "slots": 2,
        "unheard": [{"lease": "lease"}, {"lease": "x"}],
    }
    assert queue.call_here("take", **asked)[2] == [[b"lease", b"bulk", BATCH, b""]]
    assert held_by_batches(queue) == 1
    assert queue.redis.hget(queue.key("held"), "bulk") == b"1"


def test_workers_are_not_rung_for_what_must_wait(queue: BareQueue) -> None:
    queue.take("idle", slots=2)
    batch(queue, "one", "two")
    queue.redis.delete(queue.key("bell", "idle"))
    queue.share = 0.5
    queue.take(slots=1, others=1)
    assert not queue.redis.exists(queue.key("bell", "idle"))


def test_workers_are_rung_when_others_make_room(queue: BareQueue) -> None:
    queue.share = 0.5
    queue.take("idle", slots=2)
    batch(queue, "one")
    queue.take(slots=1, others=1)
    queue.redis.delete(queue.key("bell", "idle"))
    queue.take(leases=[], others=2)
    assert queue.redis.exists(queue.key("bell", "idle"))


async def test_what_waits_for_others_asks_for_no_replicas(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    grant = await gateway.acquire(QUEUE, spec())
    first = await gateway.acquire(QUEUE, spec("bulk", priority=BATCH))  # one begins at once, the next in a minute
    with worker.open(grant.lease_id), worker.open(first.lease_id):
        waits = asyncio.create_task(gateway.acquire(QUEUE, spec("bulk", priority=BATCH)))
        await wait_until(lambda: yielding(gateway, 1))
        stats = await gateway.stats(QUEUE)
        assert (stats.depth, stats.batch_depth, stats.batch_busy, stats.busy) == (1, 1, 1, 2)
        load = load_from(stats, 0.0)
        assert (load.waiting, load.head_age_s) == (0, 0)
    gateway.give_back(await asyncio.wait_for(waits, HANGS_AFTER_S))  # once the others were away for a moment
    assert (await gateway.stats(QUEUE)).others_away_s >= QueueLimits().batch_quiet_s


async def test_a_batch_that_holds_another_slot_yields_to_nobody(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    grant = await gateway.acquire(QUEUE, spec())
    with worker.open(grant.lease_id):
        asked = [spec("bulk", priority=BATCH), replace(spec("bulk", priority=BATCH), continues=True)]
        waits = [asyncio.create_task(gateway.acquire(QUEUE, one)) for one in asked]

        async def wait() -> bool:
            stats = await gateway.stats(QUEUE)
            return (stats.batch_depth, stats.yielding, stats.oldest_wait_s > 0) == (2, 1, True)

        await wait_until(wait)
        load = load_from(await gateway.stats(QUEUE), 0.0)
        assert load.waiting == 1
        assert load.head_age_s > 0
    for task in waits:
        task.cancel()


async def yielding(gateway: QueueClient, tickets: int) -> bool:
    return (await gateway.stats(QUEUE)).yielding == tickets


async def test_without_others_batches_ask_for_replicas(cluster: Cluster) -> None:
    gateway = await cluster.gateway(batch_quiet_s=0.0)
    waits = asyncio.create_task(gateway.acquire(QUEUE, spec("bulk", priority=BATCH)))

    async def counts() -> bool:
        load = load_from(await gateway.stats(QUEUE), 0.0)
        return load.waiting == 1 and load.head_age_s > 0

    await wait_until(counts)
    waits.cancel()


async def test_a_worker_says_how_many_slots_batches_hold(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    grant = await gateway.acquire(QUEUE, spec("bulk", priority=BATCH))
    with worker.open(grant.lease_id):
        await wait_until(lambda: batches_hold(gateway, 1))
        with redis_server.client() as redis:
            redis.flushall()
        await wait_until(lambda: batches_hold(gateway, 1))
    await wait_until(lambda: batches_hold(gateway, 0))


async def batches_hold(gateway: QueueClient, slots: int) -> bool:
    return (await gateway.stats(QUEUE)).batch_busy == slots


def test_a_slot_counts_from_its_grant_to_its_end_whatever_came_first() -> None:
    slots = Slots(2, 5.0, lambda: 0.0, lambda: None)
    heard, unheard = slots.offers(2)
    slots.grant(heard, "bulk", BATCH)
    assert slots.batches == {heard}
    with slots.open(unheard) as free_early:
        assert slots.unheard == [unheard]
        slots.grant(unheard, "bulk", BATCH)
        slots.grant(unheard, "bulk", BATCH)
        assert (slots.unheard, slots.batches, slots.held["bulk"]) == ([], {heard, unheard}, 2)
        free_early()
        assert slots.batches == {heard}
    slots.give_back(heard)
    assert (slots.batches, slots.held) == (set(), {})


@pytest.mark.parametrize(
    ("asked", "of_tenant", "priority"),
    [(-3, 3, -2), (-2, 3, -2), (-2, -1, -3), (-1, 2, -1), (-1, -1, -2), (0, -1, -1), (0, 2, 2)],
)
def test_less_than_ordinary_stays_below_ordinary_whatever_its_tenants_priority(
    asked: int, of_tenant: int, priority: int
) -> None:
    limits = QueueLimits(tenants={"*": TenantTerms(priority=of_tenant)})
    assert limits.priority_of(spec(priority=asked)) == priority
