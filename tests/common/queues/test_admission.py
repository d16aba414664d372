"""Admission: which tickets are refused at once."""

from __future__ import annotations

import time

import pytest

from services.common.errors import Capacity, TimedOut
from tests.common.queues.bare import BareQueue, take_arguments
from tests.common.queues.conftest import QUEUE, Cluster, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until


def test_a_wait_longer_than_the_deadline_is_refused(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.enqueue("first")
        queue.enqueue("second")
        # A slot was held for 10 s, so with two busy slots one becomes free every 5 s.
        queue.take(slots=2, held_ms=10_000)
        assert queue.enqueue("patient", remaining_ms=5_500)[0] == b"ok"
        verdict, retry_after_ms, _ = queue.enqueue("hasty", remaining_ms=5_500)
        assert (verdict, retry_after_ms) == (b"late", 4_500)
        # A ticket of higher priority does not wait for the others.
        assert queue.enqueue("urgent", remaining_ms=5_500, priority=1)[0] == b"ok"


def test_a_short_deadline_is_accepted_if_a_slot_is_free(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.take(slots=2, held_ms=60_000)
        assert queue.enqueue("first", remaining_ms=100)[0] == b"ok"
        assert queue.enqueue("second", remaining_ms=100)[0] == b"ok"
        assert queue.enqueue("third", remaining_ms=100)[0] == b"late"


def test_one_tenant_never_fills_the_queue(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.max_waiting, queue.max_waiting_per_tenant = 90, 0
        found = {tenant: let_in(queue, tenant) for tenant in ("flood", "second", "third", "late")}
        # Eight times what is free: 80 of 90 places, 9 of the 10 that are left, the last one.
        assert found == {
            "flood": (80, b"tenant_full"),
            "second": (9, b"tenant_full"),
            "third": (1, b"full"),
            "late": (0, b"full"),
        }
        queue.serve(slots=9)  # one of each tenant that waits, then in turn
        assert let_in(queue, "late")[0] > 0


def test_a_tenants_own_number_may_be_all(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        queue.max_waiting = queue.max_waiting_per_tenant = 20
        assert let_in(queue, "alone") == (20, b"full")


def let_in(queue: BareQueue, tenant: str) -> tuple[int, bytes]:
    """Put tickets of a tenant into the queue until one is refused. Return how many were let in, and why no more."""
    count = 0
    while (verdict := queue.enqueue(f"{tenant}-{count}", tenant=tenant)[0]) == b"ok":
        count += 1
    return count, verdict


async def test_a_refusal_has_a_retry_time(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    grant = await gateway.acquire(QUEUE, spec())
    with worker.open(grant.lease_id):
        await wait_until(lambda: worker.busy == 1)
        with redis_server.client() as redis:  # its last call took 20 s
            BareQueue(redis).call_here("take", **take_arguments("worker-1", [], 20_000) | {"slots": 1})
        with pytest.raises(Capacity) as refused:
            await gateway.acquire(QUEUE, spec(deadline_unix_ms=round(time.time() * 1000) + 5_000))
    assert refused.value.code == "queue_wait_too_long"
    # 20 s less the 5 s that it had, of which some may have passed.
    assert refused.value.retry_after_s is not None
    assert 14.5 <= refused.value.retry_after_s <= 20


async def test_a_deadline_in_the_past_never_reaches_the_queue(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    with pytest.raises(TimedOut):
        await gateway.acquire(QUEUE, spec(deadline_unix_ms=round(time.time() * 1000) - 1))
    assert await (await cluster.redis()).keys() == []


def test_rates_converge_to_the_arrivals(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        for n in range(20):
            queue.enqueue(f"{n}")
        queue.serve(slots=5)
        depth, oldest_ms, *_, arrivals, grants, _, _ = queue.call_here("stats")
        # 20 and 5 arrivals within the first second.
        assert depth == 15
        assert 0 <= oldest_ms < 1000
        assert float(arrivals) == pytest.approx(20, rel=0.1)
        assert float(grants) == pytest.approx(5, rel=0.1)
