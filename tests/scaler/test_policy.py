"""The policy alone: properties for any load, and exact answers for simple loads."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.queues import QueueStats
from services.scaler.policy import HPA_TOLERANCE, STEP_S, QueueLoad, ReplicaPolicy, Terms, step_of
from services.scaler.watch import load_from
from services.scaler.window import FadingMean, PeakWindow, StartTime

TERMS = Terms(slots_per_replica=4, max_replicas=100, max_wait_s=5, scale_down_delay_s=60)


def run(policy: ReplicaPolicy, seconds: int, load: Callable[[int], QueueLoad]) -> list[int]:
    """Return the policy's replicas under `load`, once per second."""
    return [policy.decide(replace(load(second), at_s=float(second))).replicas for second in range(seconds)]


def held(policy: ReplicaPolicy, seconds: int, load: QueueLoad, *, from_s: float = 0.0) -> list[int]:
    return [policy.decide(replace(load, at_s=from_s + second)).replicas for second in range(seconds)]


def workers(number: int, busy: int, **more: float) -> QueueLoad:
    return QueueLoad(0.0, workers=number, slots=4 * number, busy=busy, **more)  # type: ignore[arg-type]


@st.composite
def any_load(draw: st.DrawFn, at_s: float = 0.0) -> QueueLoad:
    number = draw(st.integers(0, 40))
    waiting = draw(st.integers(0, 500))
    return QueueLoad(
        at_s,
        waiting=waiting,
        head_age_s=draw(st.floats(0, 100)) if waiting else 0.0,
        workers=number,
        slots=4 * number,
        busy=draw(st.integers(0, 4 * number)),
        arrivals_per_s=draw(st.floats(0, 50)),
        hold_s=draw(st.floats(0, 60)),
        woken=draw(st.booleans()),
        known=draw(st.booleans()),
    )


any_terms = st.builds(
    lambda least, more, utilization, delay_s: Terms(4, least + more, least, utilization, 5.0, delay_s),
    st.integers(0, 10),
    st.integers(1, 60),
    st.floats(0.05, 1),
    st.floats(0, 600),
)


@settings(max_examples=150, deadline=None)
@given(any_terms, st.lists(st.tuples(st.floats(0, 60), any_load()), min_size=1, max_size=30))
def test_it_stays_in_bounds_and_above_the_busy_slots(terms: Terms, loads: list[tuple[float, QueueLoad]]) -> None:
    policy, at_s = ReplicaPolicy(terms), 0.0
    for passed_s, load in loads:
        at_s += passed_s
        decision = policy.decide(replace(load, at_s=at_s))
        assert terms.min_replicas <= decision.replicas <= terms.max_replicas
        assert decision.replicas >= min(math.ceil(load.busy / 4), terms.max_replicas)
        assert decision.active or decision.replicas == 0
        if load.waiting or load.busy or load.woken or not load.known:
            assert decision.active


@settings(max_examples=150, deadline=None)
@given(any_load(), st.lists(any_load(), max_size=5), st.integers(0, 500), st.floats(0, 100))
def test_more_tickets_never_lower_the_replicas(
    past: QueueLoad, between: list[QueueLoad], more: int, older_s: float
) -> None:
    small, large = ReplicaPolicy(TERMS), ReplicaPolicy(TERMS)
    for second, load in enumerate([past, *between]):
        at_s = float(second * 20)
        age_s = load.head_age_s + (older_s if load.waiting + more else 0.0)
        fewer = small.decide(replace(load, at_s=at_s))
        greater = large.decide(replace(load, at_s=at_s, waiting=load.waiting + more, head_age_s=age_s))
        if second == 0:
            assert greater.replicas >= fewer.replicas


@settings(max_examples=100, deadline=None)
@given(any_load(), st.floats(10, 600))
def test_a_constant_load_settles(load: QueueLoad, delay_s: float) -> None:
    policy = ReplicaPolicy(replace(TERMS, scale_down_delay_s=delay_s))
    replicas = [policy.decide(replace(load, at_s=float(n * 5))).replicas for n in range(400)]
    # It goes down only after the delay, monotonically.
    falls = [n for n in range(1, 400) if replicas[n] < replicas[n - 1]]
    rises = [n for n in range(1, 400) if replicas[n] > replicas[n - 1]]
    assert not rises or not falls or rises[-1] < falls[0]
    assert not falls or falls[0] * 5 > delay_s - 5
    assert len(set(replicas[-100:])) == 1


@given(st.integers(1, 100_000))
def test_a_step_is_the_smallest_that_the_hpa_acts_on(replicas: int) -> None:
    def acts(wanted: int) -> bool:
        return abs(wanted / replicas - 1) > HPA_TOLERANCE + 1e-12

    assert acts(replicas + step_of(replicas))
    assert acts(replicas - step_of(replicas))
    assert step_of(replicas) == 1 or not acts(replicas + step_of(replicas) - 1)


@given(st.lists(st.tuples(st.floats(0, 20), st.integers(0, 9)), min_size=1), st.floats(1, 50))
def test_a_window_knows_its_peak(steps: list[tuple[float, int]], length_s: float) -> None:
    window, at_s, seen = PeakWindow(length_s), 0.0, list[tuple[float, int]]()
    for passed_s, number in steps:
        at_s += passed_s
        seen.append((at_s, number))
        assert window.add(at_s, number) == max(n for when, n in seen if when >= at_s - length_s)


def test_a_decaying_mean_follows_at_its_time_constant() -> None:
    assert FadingMean(10.0).add(3.0, 5.0) == 5.0
    mean = FadingMean(10.0, 0.0)
    assert mean.add(0.0, 5.0) == 0.0
    assert mean.add(10.0, 5.0) == pytest.approx(5 * (1 - math.exp(-1)))
    assert mean.add(10.0, 0.0) == pytest.approx(5 * (1 - math.exp(-1)))  # a value held for no time has no weight
    assert mean.add(1000.0, 2.0) == pytest.approx(2.0)


def test_an_idle_stage_needs_no_replica() -> None:
    decision = ReplicaPolicy(TERMS).decide(QueueLoad(0.0))
    assert (decision.replicas, decision.active) == (0, False)


@pytest.mark.parametrize(
    "load", [QueueLoad(0.0, waiting=1), QueueLoad(0.0, woken=True), QueueLoad(0.0, known=False), workers(1, busy=1)]
)
def test_the_first_ticket_asks_for_a_replica_at_once(load: QueueLoad) -> None:
    decision = ReplicaPolicy(TERMS).decide(load)
    assert (decision.replicas, decision.active) == (1, True)


def test_each_ticket_asks_for_a_slot_until_hold_times_are_known() -> None:
    assert ReplicaPolicy(TERMS).decide(QueueLoad(0.0, waiting=40)).replicas == 10
    # 4 slots finish 40 tickets of 12 s in 120 s.
    assert ReplicaPolicy(TERMS).decide(QueueLoad(0.0, waiting=40, hold_s=12.0)).replicas == 1


def test_busy_slots_leave_the_targets_spare_ones() -> None:
    # 16 busy slots at 80 % are 20 slots.
    assert held(ReplicaPolicy(TERMS), 600, workers(5, busy=16))[-1] == 5
    assert held(ReplicaPolicy(replace(TERMS, target_utilization=0.5)), 600, workers(5, busy=16))[-1] == 8


def test_arrivals_show_a_load_beyond_the_slots() -> None:
    # 8 tickets a second of 5 s each would keep 40 slots busy, and there are 8.
    load = workers(2, busy=8, waiting=3, head_age_s=1.0, arrivals_per_s=8.0, hold_s=5.0)
    assert held(ReplicaPolicy(TERMS), 30, load)[-1] in (13, 14)  # 12.5, in steps that the HPA acts on


def test_a_long_wait_at_the_head_adds_one_replica_once() -> None:
    young = workers(5, busy=16, waiting=1, head_age_s=4.9, hold_s=5.0)
    old = replace(young, head_age_s=5.1)
    assert held(ReplicaPolicy(TERMS), 100, young)[-1] == 5
    assert held(ReplicaPolicy(TERMS), 600, old)[-1] == 6
    assert set(held(ReplicaPolicy(TERMS), 600, old)) == {5, 6}


def test_a_short_wait_with_slots_nearly_free_adds_nothing() -> None:
    policy, rates = ReplicaPolicy(replace(TERMS, scale_down_delay_s=300)), {"arrivals_per_s": 3.0, "hold_s": 5.0}
    held(policy, 300, workers(5, busy=15, **rates))
    assert held(policy, 3, workers(5, busy=20, waiting=2, head_age_s=0.5, **rates), from_s=300.0) == [5, 5, 5]


def test_it_goes_down_to_the_delays_peak_with_a_pause_between_steps() -> None:
    policy = ReplicaPolicy(replace(TERMS, scale_down_delay_s=300))
    held(policy, 600, workers(12, busy=36))
    after = held(policy, 500, workers(12, busy=0), from_s=600.0)
    lower = [n for n in range(1, 500) if after[n] < after[n - 1]]
    assert lower[0] >= 300
    assert all(b - a >= STEP_S for a, b in itertools.pairwise(lower))
    assert after[-1] == 0


def test_it_does_not_go_down_while_the_head_waits_too_long() -> None:
    policy = ReplicaPolicy(TERMS)
    held(policy, 100, workers(12, busy=36))
    assert min(held(policy, 400, workers(12, busy=0, waiting=1, head_age_s=9.0, hold_s=1.0), from_s=100.0)) == 12


def test_starting_replicas_are_not_requested_again() -> None:
    """300 tickets of 10 s, and 2 more a second, need 20 slots for the load and 12.5 for the backlog.

    The backlog is cleared in four minutes: two while a replica starts, and two in which it should clear.
    """
    policy = ReplicaPolicy(TERMS)
    load = QueueLoad(0.0, waiting=300, head_age_s=60.0, arrivals_per_s=2.0, hold_s=10.0)
    assert held(policy, 60, load)[-1] == 9
    # All are ready and busy. The backlog shrinks, so the busy slots do not show the load.
    there = workers(9, busy=36, waiting=200, head_age_s=60.0, arrivals_per_s=2.0, hold_s=10.0)
    assert set(held(policy, 100, there, from_s=60.0)) == {9}


def test_start_times_are_measured() -> None:
    start = StartTime(120.0)
    start.note(0.0, 2, 0)
    start.note(5.0, 4, 1)
    assert start.mean_s == 120.0
    start.note(30.0, 4, 2)
    assert start.mean_s == 30.0
    start.note(45.0, 4, 4)
    assert start.mean_s == pytest.approx(30 + 0.3 * (40 - 30))
    start.note(50.0, 6, 4)
    start.note(60.0, 4, 4)  # removed before it was ready
    start.note(90.0, 4, 6)
    assert start.mean_s == pytest.approx(33.0)


def test_a_ticket_within_the_delay_restarts_it() -> None:
    policy = ReplicaPolicy(TERMS)
    replicas = run(policy, 400, lambda second: workers(1, busy=1 if second % 50 == 0 else 0))
    assert set(replicas) == {1}


def test_slots_of_draining_workers_are_not_replaced() -> None:
    stats = QueueStats(
        depth=3,
        oldest_wait_s=1.5,
        batch_depth=0,
        batch_busy=0,
        yielding=0,
        others_away_s=0.0,
        workers=10,
        slots=40,
        busy=30,
        draining_workers=6,
        draining_slots=24,
        draining_busy=24,
        arrivals_per_s=2.0,
        refusals_per_s=1.0,
        grants_per_s=2.0,
        hold_s=5.0,
        woken=False,
        known=True,
    )
    load = load_from(stats, 7.0)
    assert load == QueueLoad(7.0, 3, 1.5, workers=4, slots=16, busy=6, arrivals_per_s=3.0, hold_s=5.0)
    assert held(ReplicaPolicy(TERMS), 600, replace(load, waiting=0))[-1] == 2


def test_workers_count_with_their_real_slots() -> None:
    load = QueueLoad(0.0, workers=2, slots=32, busy=30)
    assert held(ReplicaPolicy(TERMS), 600, load)[-1] == 3


def test_a_large_stage_moves_only_in_steps_that_the_hpa_acts_on() -> None:
    policy = ReplicaPolicy(replace(TERMS, scale_down_delay_s=300))
    # 50 replicas, and a load that varies by 3 % around them.
    replicas = run(policy, 3000, lambda second: workers(50, busy=160 + round(5 * math.sin(second / 30))))
    changes = [(a, b) for a, b in itertools.pairwise(replicas) if a != b]
    assert all(abs(b / a - 1) > HPA_TOLERANCE for a, b in changes)
    assert len(changes) <= 1


def test_a_restarted_scaler_removes_nothing_before_its_delay() -> None:
    assert set(held(ReplicaPolicy(TERMS), 60, workers(8, busy=1))) == {8}
