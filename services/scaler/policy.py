"""Decides how many replicas a stage needs. Pure: no clock, no gRPC, no Redis; bench/scale_sim.py runs the same code.

The slots that a stage needs are the highest of three numbers:

1. Always: mean busy slots / target utilization. This covers the load while every ticket finds a slot, with spare slots
   for short swings.
2. While tickets wait: arrivals per second × mean hold time / target utilization. This is the same by Little's law, for
   times when slots are short: busy slots then do not show the load. Refused tickets count as arrivals.
3. Once the head of the queue has waited for max_wait_s, or at once without any worker: the load, plus the slots that
   clear the waiting tickets in CLEAR_S. Tickets that the replicas already asked for will have served before a new one
   could start do not count, and those replicas stay needed for them.

Slots of draining workers never count: they finish their work and need no replacement.

The policy measures how long a replica takes to start, from the request for it until one more worker is there. If the
head has waited too long for CLEAR_S plus a start and no worker came, the estimates are wrong. The policy then asks for
one replica more than there are workers.

It scales up at once. It scales down to the peak need of the last scale_down_delay_s, at most once in STEP_S, never
below the busy slots, and never while the head waits too long. No change is smaller than what the HPA acts on: the HPA
ignores changes of up to HPA_TOLERANCE.
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
"""The replicas for waiting tickets should clear them within this time after their start. Shorter times add replicas
that then idle for a whole scale_down_delay_s: bench/scale_sim.py shows both."""

ASSUMED_START_S = 120.0
"""The start time of a replica, until the first start has been measured."""

MEAN_S = 60.0
"""Busy slots are averaged over about this time, or over a fifth of scale_down_delay_s if that is less. So the mean
follows a new load long before the delay is over."""

OFFERED_S = 5.0
"""Arrivals × hold time is averaged over about this time, starting at 0: both are rough in a queue's first seconds. Over
a fifth of scale_down_delay_s if that is less."""


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

    # Monotonic seconds.
    at_s: float
    waiting: int = 0
    head_age_s: float = 0.0
    workers: int = 0
    slots: int = 0
    busy: int = 0
    # New tickets, including those refused for lack of slots.
    arrivals_per_s: float = 0.0
    # Mean time that a slot is held; 0 = not known yet.
    hold_s: float = 0.0
    # A turn that will need this stage has begun.
    woken: bool = False
    # The gateways know the model: a worker has shown its card.
    known: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    replicas: int
    # False = the stage may go to zero replicas.
    active: bool


class ReplicaPolicy:
    """One stage's replicas over time. Call `decide` in the order of `at_s`; the intervals may vary."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._busy = FadingMean(min(MEAN_S, terms.scale_down_delay_s / 5))
        self._offered = FadingMean(min(OFFERED_S, terms.scale_down_delay_s / 5), 0.0)
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
        if self._asked is None:  # the past is unknown, so running replicas stay for a whole delay
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
        if load.woken or not load.known:  # gateways get a model's card from its first worker
            slots = max(slots, 1.0)
        return slots

    def _slots_to_clear(self, load: QueueLoad, offered: float) -> float:
        if not load.hold_s:
            return load.busy + load.waiting
        asked = max(0.0, (self._asked or 0) * slots_of_replica(self._terms, load) - offered)
        clear_s = max(CLEAR_S, self._terms.max_wait_s)
        # Slot seconds of work that waits now, and that will still wait when a replica asked for now has started.
        work = load.waiting * load.hold_s
        backlog = max(0.0, work - asked * self._start.mean_s)
        # The replicas already asked for stay needed for what they are to clear.
        return offered + max(backlog / clear_s, min(asked, work / clear_s))


def slots_of_replica(terms: Terms, load: QueueLoad) -> float:
    """Return the mean slots of live workers or, without any, the operator's number."""
    return load.slots / load.workers if load.workers and load.slots else terms.slots_per_replica


def replicas_for(terms: Terms, load: QueueLoad, slots: float) -> int:
    """Return the number of replicas that have `slots`, within min_replicas and max_replicas."""
    replicas = math.ceil(slots / slots_of_replica(terms, load) - 1e-9)
    return min(max(replicas, terms.min_replicas), terms.max_replicas)


def step_of(replicas: int) -> int:
    """Return the smallest change that the HPA acts on: one for up to nine replicas, then a little over a tenth."""
    return math.floor(replicas * HPA_TOLERANCE + 1e-9) + 1
