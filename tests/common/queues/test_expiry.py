"""What expires and what does not: a queue outlives any quiet hour while it is used, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.common.queues.library import LIBRARY
from services.common.queues.tickets import PriorityClass
from tests.common.queues.bare import BareQueue, take_arguments
from tests.fixtures.redis import RedisServer

KEPT_MS = 59 * 60_000
LONGEST_WAIT_MS = 1_800_000


@pytest.fixture
def queue(redis_server: RedisServer) -> Iterator[BareQueue]:
    with redis_server.client() as redis:
        yield BareQueue(redis)


def test_a_fleet_that_does_not_change_is_known_for_longer_than_an_hour(queue: BareQueue) -> None:
    """A worker shows the same card, slots and holders, and the same tenants wait at their limits."""
    shown = take_arguments("worker-1", [], others=1, held={"acme": 1, "/org": 1}) | {"card": b"card"}
    queue.call_here("take", **shown)
    queue.enqueue("waits", max_slots=1)
    queue.enqueue("waits too", tenant="beta", group="org", group_max_slots=1)
    for _ in range(2):  # what a new worker parks comes back at once
        queue.take("worker-2", leases=["lease"], held={})
    kept = [queue.key(name) for name in ("sums", "cards", "held", "parked", "full_groups")]
    kept += [queue.key("held_by", "worker-1"), queue.key("parked_in", "/org")]
    for key in kept:
        assert queue.redis.pexpire(key, 60_000)  # nearly an hour later
    queue.redis.function_load(LIBRARY.text, replace=True)  # it remembers for a minute what it has renewed
    queue.call_here("take", **shown | {"all_held": 0, "held": [], "known": 1})
    assert {key: queue.redis.pttl(key) > KEPT_MS for key in kept} == dict.fromkeys(kept, True)


def test_counts_that_expired_before_what_they_count_leave_no_key(queue: BareQueue) -> None:
    queue.enqueue("one", "two")
    queue.take("worker-1", leases=["lease"], held={})
    queue.redis.delete(queue.key("waiting"), queue.key("held"), queue.key("sums"))
    queue.discard("two")
    queue.take("worker-1", leases=[], held={})
    assert not queue.redis.exists(queue.key("waiting"), queue.key("held"))
    assert not any(int(count) < 0 for count in queue.redis.hvals(queue.key("sums")))


@pytest.mark.parametrize("priority", [int(PriorityClass.BATCH), int(PriorityClass.ORDINARY)])
def test_a_ticket_outlives_the_lists_that_name_it(queue: BareQueue, priority: int) -> None:
    """Nobody may call for longer than it waits, as all gateways died. Tickets that came later keep the lists alive."""
    queue.enqueue("ticket", priority=priority)
    lists = [queue.key("batch_arrivals" if priority <= PriorityClass.BATCH else "arrivals")]
    lists += [queue.key("deadlines"), queue.key("ranks"), queue.shard_key("gateway", "gateway-1")]
    ticket_ms = queue.redis.pttl(queue.key("ticket", "ticket"))
    assert all(ticket_ms >= queue.redis.pttl(name) + LONGEST_WAIT_MS for name in lists)
