"""The order of tickets: priority, then fair share, then arrival."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput
from services.common.queues import QueueLimits, TenantTerms
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import spec
from tests.fixtures.redis import RedisServer

TENANTS: tuple[str, ...] = ("acme", "beta", "corp")


@pytest.fixture
def queue(redis_server: RedisServer) -> BareQueue:
    return BareQueue(redis_server.client())


def test_equal_tickets_go_in_the_order_of_arrival(queue: BareQueue) -> None:
    # Each tenant has one ticket: all start equal, and no name comes first.
    tickets = [f"{99 - n}" for n in range(20)]
    for ticket in tickets:
        queue.enqueue(ticket, tenant=f"tenant-{ticket}")
    assert queue.serve(slots=20) == tickets


def test_a_higher_priority_goes_first_at_any_past_use(queue: BareQueue) -> None:
    for n in range(3):
        queue.enqueue(f"used-{n}", tenant="acme", priority=1, charge=1000)
    assert queue.serve(slots=3) == ["used-0", "used-1", "used-2"]
    queue.enqueue("batch", priority=-1)
    queue.enqueue("ordinary", tenant="beta")
    queue.enqueue("interactive", tenant="acme", priority=1)
    queue.enqueue("highest", tenant="acme", priority=3, charge=1e9)
    queue.enqueue("lowest", tenant="beta", priority=-3)
    assert queue.serve(slots=5) == ["highest", "interactive", "ordinary", "batch", "lowest"]


def test_a_higher_priority_goes_first_at_the_end_of_the_clocks(queue: BareQueue) -> None:
    """A tenant of little weight moves its clock far: 2^48 is where the next priority's ranks begin."""
    for n in range(2):
        queue.enqueue(f"used-{n}", tenant="acme", priority=1, charge=2.0**48)
        queue.enqueue(f"waits-{n}", tenant="beta", priority=1, charge=2.0**49)
    assert queue.serve(slots=2) == ["used-0", "waits-0"]
    queue.enqueue("ordinary", tenant="beta")
    assert queue.serve(slots=3) == ["used-1", "waits-1", "ordinary"]


def test_tenants_share_again_after_the_end_of_the_clocks(queue: BareQueue) -> None:
    for n in range(3):
        queue.enqueue(f"used-{n}", tenant="acme", charge=2.0**48)
        assert queue.serve() == [f"used-{n}"]
    for n in range(3):
        queue.enqueue(f"flood-{n}", tenant="flood", charge=10)
    queue.enqueue("small", tenant="small", charge=10)
    assert queue.serve(slots=4) == ["flood-0", "small", "flood-1", "flood-2"]


def test_a_tenant_that_floods_waits_behind_itself(queue: BareQueue) -> None:
    for n in range(30):
        queue.enqueue(f"flood-{n}", tenant="flood", charge=10)
    assert queue.serve(slots=10) == [f"flood-{n}" for n in range(10)]
    queue.enqueue("small-0", tenant="small", charge=10)
    queue.enqueue("small-1", tenant="small", charge=10)
    assert queue.serve(slots=4) == ["small-0", "flood-10", "small-1", "flood-11"]


def test_an_idle_tenant_saves_up_no_share(queue: BareQueue) -> None:
    queue.enqueue("early", tenant="away", charge=1)
    assert queue.serve() == ["early"]
    for n in range(50):
        queue.enqueue(f"steady-{n}", tenant="steady", charge=100)
    queue.serve(slots=40)
    for n in range(10):
        queue.enqueue(f"back-{n}", tenant="away", charge=100)
    # It gets its share from now on, without credit for the 4000 that the other was served.
    assert Counter(ticket.split("-")[0] for ticket in queue.serve(slots=10)) == {"back": 5, "steady": 5}


def test_use_in_one_priority_does_not_delay_another(queue: BareQueue) -> None:
    for n in range(5):
        queue.enqueue(f"high-{n}", tenant="acme", priority=1, charge=10_000)
    for n in range(5):
        queue.enqueue(f"flood-{n}", tenant="beta", charge=100)
    assert len(queue.serve(slots=6)) == 6
    queue.enqueue("newcomer", tenant="corp")
    assert "newcomer" in queue.serve(slots=2)


def test_settling_moves_waiting_and_later_tickets(queue: BareQueue) -> None:
    queue.enqueue("first", tenant="guessed-high", charge=1000)
    assert queue.serve() == ["first"]
    for n in range(2):
        queue.enqueue(f"high-{n}", tenant="guessed-high", charge=1000)
        queue.enqueue(f"other-{n}", tenant="other", charge=300)
    queue.settle("guessed-high", 100 - 1000)
    # Its virtual start is 100, not 1000: after other-0 (0), before other-1 (300).
    assert queue.serve(slots=3) == ["other-0", "high-0", "other-1"]


@pytest.mark.parametrize(("slots", "at_once"), [(2, 2), (8, 4)])
def test_tenants_that_get_much_back_keep_the_ratio_of_their_weights(queue: BareQueue, slots: int, at_once: int) -> None:
    """Answers are mostly shorter than was guessed, and many end at once. What is on its way at the start delays both by
    as much once, so the first answers are not counted."""
    weights, guessed, real, tickets = {"acme": 2.0, "beta": 1.0}, 260.0, 26.0, 0
    running: list[str] = []
    served = Counter[str]()

    def ask(tenant: str) -> None:
        nonlocal tickets
        queue.enqueue(f"{tenant} {tickets}", tenant=tenant, charge=guessed / weights[tenant])
        tickets += 1

    for tenant in (*weights, *weights) * slots:
        ask(tenant)
    for done in range(0, 160, at_once):
        running += queue.serve(slots=slots - len(running))
        for ticket in running[:at_once]:
            tenant = ticket.split()[0]
            served[tenant] += done >= 40
            queue.settle(tenant, (real - guessed) / weights[tenant])
            ask(tenant)
        del running[:at_once]
    assert 1.8 <= served["acme"] / served["beta"] <= 2.2


def test_a_newcomer_starts_with_the_first_of_those_that_get_much_back(queue: BareQueue) -> None:
    for n in range(8):
        queue.enqueue(f"flood-{n}", tenant="flood", charge=1000)
    queue.serve(slots=4)
    for _ in range(4):
        queue.settle("flood", 10 - 1000)
    queue.enqueue("newcomer", tenant="corp", charge=1000)
    assert queue.serve(slots=3) == ["flood-4", "newcomer", "flood-5"]


def test_a_ticket_that_leaves_is_not_charged(queue: BareQueue) -> None:
    queue.enqueue("busy", tenant="other", charge=1)
    for n in range(5):
        queue.enqueue(f"left-{n}", tenant="acme", charge=1000)
    queue.enqueue("stays", tenant="acme", charge=1000)
    queue.enqueue("rival", tenant="rival", charge=10)
    queue.enqueue("rival-2", tenant="rival", charge=10)
    for n in range(5):
        queue.discard(f"left-{n}")
    assert queue.serve(slots=4) == ["busy", "stays", "rival", "rival-2"]


def test_a_slot_that_may_have_been_used_is_not_refunded(queue: BareQueue) -> None:
    for ticket in ("used", "unused"):
        queue.enqueue(ticket, tenant=ticket, charge=100)
    assert queue.serve(slots=2) == ["used", "unused"]
    queue.discard("used", spent=True)
    queue.discard("unused")
    queue.enqueue("used-2", tenant="used")
    queue.enqueue("unused-2", tenant="unused")
    assert queue.serve() == ["unused-2"]


def test_a_ticket_of_a_dead_worker_is_first_in_its_class_and_charged_once(queue: BareQueue) -> None:
    _, arrival_us, _ = queue.enqueue("victim", tenant="acme", charge=500)
    assert queue.serve() == ["victim"]
    for ticket in ("later-0", "later-300", "later-600"):
        queue.enqueue(ticket, tenant="beta", charge=300)
    queue.enqueue("interactive", tenant="corp", priority=1)
    queue.discard("victim")
    queue.enqueue("again", tenant="acme", charge=500, mode="front", arrival_us=arrival_us, avoid="worker-1")
    queue.enqueue("next-500", tenant="acme", charge=500)
    assert queue.serve(slots=6) == ["interactive", "again", "later-0", "later-300", "next-500", "later-600"]


def test_no_ticket_of_a_dead_gateway_is_granted(queue: BareQueue) -> None:
    for n in range(80):
        queue.enqueue(f"orphan-{n}", gateway="gateway-2")
    queue.enqueue("mine", tenant="beta")
    queue.redis.zadd(queue.shard_key("gateways"), {"gateway-2": 0})
    served = [ticket for _ in range(12) for ticket in queue.serve(slots=90)]  # each call drops only a few
    assert served == ["mine"]
    assert queue.received_grants("gateway-2") == []
    assert queue.call_here("stats")[0] == 0


def test_a_priority_out_of_range_is_bad_input() -> None:
    with pytest.raises(BadInput) as refused:
        spec(priority=4)
    assert refused.value.param == "priority"


@given(
    asks=st.lists(st.tuples(st.sampled_from(TENANTS), st.integers(1, 1000)), min_size=2, max_size=40),
    weights=st.fixed_dictionaries({tenant: st.sampled_from((0.5, 1.0, 3.0)) for tenant in TENANTS}),
)
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_backlogged_tenants_are_served_in_the_ratio_of_their_weights(
    queue: BareQueue, asks: list[tuple[str, int]], weights: dict[str, float]
) -> None:
    """Start-time fair queueing's bound: while two tenants wait, they differ by at most one largest ticket of each."""
    queue.redis.flushall()
    limits = QueueLimits(tenants={tenant: TenantTerms(weight=weight) for tenant, weight in weights.items()})
    charge = {f"{n}": limits.charge(tenant, cost) for n, (tenant, cost) in enumerate(asks)}
    tenant_of = {f"{n}": tenant for n, (tenant, _) in enumerate(asks)}
    for ticket, tenant in tenant_of.items():
        queue.enqueue(ticket, tenant=tenant, charge=charge[ticket])
    left = Counter(tenant_of.values())
    largest = {tenant: max((charge[t] for t in charge if tenant_of[t] == tenant), default=0.0) for tenant in TENANTS}
    served = dict.fromkeys(TENANTS, 0.0)
    for _ in asks:
        (ticket,) = queue.serve()
        served[tenant_of[ticket]] += charge[ticket]
        left[tenant_of[ticket]] -= 1
        backlogged = [tenant for tenant in TENANTS if left[tenant] > 0]
        for one in backlogged:
            for other in backlogged:
                assert served[one] - served[other] <= largest[one] + largest[other] + 1
    assert queue.serve() == []
