"""How many replicas a stage needs. Pure: no clock, no gRPC, no Redis; bench/scale_sim.py runs this very code.

    slots = the highest of   mean busy slots / target utilization
    while tickets wait       arrivals a second × mean hold / target utilization
    once the head waited     the load + what clears the tickets in CLEAR_S, less those that the replicas already asked
    for max_wait_s           for will have served by the time at which one asked for now could start to serve

The first is what the load takes while every ticket finds a slot, with spare slots for short swings. The second is the
same by Little's law, for the time in which slots are short: busy slots then show the backlog, not the load. Refused
tickets count as arrivals. Without any worker the third counts at once. Slots of workers that drain count nowhere: they
finish what they hold and ask for no replacement.

How long a replica takes to start is measured: from the moment it is asked for until a worker more is there. Where the
head has waited too long for CLEAR_S and a start, and no worker came in that time, the estimates are wrong: one more
replica than there are workers is asked for.

Up: what is needed is asked for at once. Down: to the most that was needed in the last scale_down_delay_s, at most once
in STEP_S, never below the slots that are busy now, and not while the head waits too long. A change is at least what the
HPA acts on: it ignores one of up to HPA_TOLERANCE.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.scaler.window import FadingMean, PeakWindow, StartTime, Stuck

HPA_TOLERANCE = 0.1
"""--horizontal-pod-autoscaler-tolerance of kube-controller-manager, its default."""

STEP_S = 30.0
"""Between two changes down: twice the HPA's sync period; a tenth of scale_down_delay_s where that is less."""

CLEAR_S = 120.0
"""Waiting tickets should be gone so long after the replicas for them have started. Shorter times buy replicas that idle
for a whole delay after that: bench/scale_sim.py shows both."""

ASSUMED_START_S = 120.0
"""How long a replica takes to start, until the first one was seen to."""

MEAN_S = 60.0
"""Busy slots are averaged over about so long, or over a fifth of scale_down_delay_s where that is less. So the mean
knows of a load long before the delay is over."""

OFFERED_S = 5.0
"""Arrivals × hold is averaged over about so long, from 0 on: both are rough in a queue's first seconds."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What the operator allows. `slots_per_replica` counts until a live worker shows how many it has."""

    slots_per_replica: int
    max_replicas: int
    min_replicas: int = 0
    target_utilization: float = 0.8
    max_wait_s: float = 5.0
    scale_down_delay_s: float = 300.0


@dataclass(frozen=True, slots=True)
class QueueLoad:
    """A queue at one moment. Workers, slots and busy slots are those of workers that take tickets."""

    # By a clock that never goes back, seconds.
    at_s: float
    waiting: int = 0
    head_age_s: float = 0.0
    workers: int = 0
    slots: int = 0
    busy: int = 0
    # Tickets that came, and those that were refused for want of slots.
    arrivals_per_s: float = 0.0
    # Mean time that a slot is held; 0 = not known yet.
    hold_s: float = 0.0
    # A turn is on its way to this stage.
    woken: bool = False
    # The gateways know the model: a worker has shown its card.
    known: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    # False = the stage may go to zero replicas.
    active: bool


class ReplicaPolicy:
    """One stage's replicas through time. Loads are given in the order of their `at_s`, however irregularly."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._busy = FadingMean(min(MEAN_S, terms.scale_down_delay_s / 5))
        self._offered = FadingMean(OFFERED_S, 0.0)
        self._peak = PeakWindow(terms.scale_down_delay_s)
        self._start = StartTime(ASSUMED_START_S)
        self._stuck = Stuck()
        self._step_s = min(STEP_S, terms.scale_down_delay_s / 10)
        self._asked: int | None = None
        self._stepped_s = -math.inf

    def decide(self, load: QueueLoad) -> Decision:
        terms = self._terms
        late = load.waiting > 0 and load.head_age_s > terms.max_wait_s
        slots = self._slots_needed(load, late)
        needed = replicas_for(terms, load, slots)
        floor = replicas_for(terms, load, max(slots, load.busy))
        if self._asked is None:  # whatever runs stays for a whole delay: nothing is known of the time before
            self._asked = min(max(needed, load.workers), terms.max_replicas)
            self._peak.add(load.at_s, self._asked)
        if floor > self._asked:
            self._asked = min(max(floor, self._asked + step_of(self._asked)), terms.max_replicas)
        peak = max(self._peak.add(load.at_s, needed), floor)
        rested = load.at_s - self._stepped_s >= self._step_s
        if self._asked - peak >= step_of(self._asked) and rested and not late:
            self._asked = peak
            self._stepped_s = load.at_s
        self._start.note(load.at_s, self._asked, load.workers)
        return Decision(self._asked, active=self._asked > 0)

    def _slots_needed(self, load: QueueLoad, late: bool) -> float:
        terms = self._terms
        offered = self._offered.add(load.at_s, load.arrivals_per_s * load.hold_s)
        saturated = load.waiting > 0 and offered > 0
        busy = self._busy.add(load.at_s, min(load.busy, offered) if saturated else load.busy)
        slots = max(busy / terms.target_utilization, 1.0) if load.busy else 0.0
        if load.waiting:
            slots = max(slots, offered / terms.target_utilization, 1.0)
            if late or not load.workers:
                slots = max(slots, self._slots_to_clear(load, offered))
        if self._stuck.note(load.at_s, load.workers, late) >= CLEAR_S + self._start.mean_s:
            slots = max(slots, (load.workers + 1) * slots_of_replica(terms, load))
        if load.woken or not load.known:  # gateways learn what a model is from its first worker
            slots = max(slots, 1.0)
        return slots

    def _slots_to_clear(self, load: QueueLoad, offered: float) -> float:
        if not load.hold_s:
            return load.busy + load.waiting
        asked = (self._asked or 0) * slots_of_replica(self._terms, load)
        # Slot seconds that will still wait when a replica that is asked for now is there.
        backlog = load.waiting * load.hold_s - max(0.0, asked - offered) * self._start.mean_s
        return offered + max(0.0, backlog) / max(CLEAR_S, self._terms.max_wait_s)


def slots_of_replica(terms: Terms, load: QueueLoad) -> float:
    """As live workers show them, in the mean; where there is none, as the operator says."""
    return load.slots / load.workers if load.workers and load.slots else terms.slots_per_replica


def replicas_for(terms: Terms, load: QueueLoad, slots: float) -> int:
    """Replicas that hold `slots`, from min to max."""
    replicas = math.ceil(slots / slots_of_replica(terms, load) - 1e-9)
    return min(max(replicas, terms.min_replicas), terms.max_replicas)


def step_of(replicas: int) -> int:
    """The smallest change that the HPA acts on: one up to nine replicas, then a little over a tenth."""
    return math.floor(replicas * HPA_TOLERANCE + 1e-9) + 1
