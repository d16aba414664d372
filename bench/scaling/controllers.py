"""Who decides how many replicas there are: our policy through KEDA, the HPA on CPU, or nobody.

Both of the first are seen through the same HPA (its documented algorithm and defaults): a look every 15 s, a tolerance
of 0.1. What each may do is in its class.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from bench.scaling.pool import Pool
from services.scaler.policy import HPA_TOLERANCE, QueueLoad, ReplicaPolicy, Terms

HPA_SYNC_S = 15.0
KEDA_POLL_S = 30.0


class Controller(Protocol):
    @property
    def name(self) -> str: ...

    @property
    def every_s(self) -> float:
        """Between two calls of `tick`, seconds."""
        ...

    @property
    def min_replicas(self) -> int:
        """It never goes below."""
        ...

    def tick(self, at_s: float, pool: Pool) -> int | None:
        """Replicas from now on; None = as many as there are."""
        ...


def follows(wanted: int, current: int) -> bool:
    """The HPA acts on an AverageValue metric: the ratio is outside the tolerance."""
    return current > 0 and abs(1.0 - wanted / current) > HPA_TOLERANCE + 1e-12


def most_at_once(current: int) -> int:
    """How far up the HPA goes in one look: by four pods or 100 %, its default and what our charts set."""
    return max(current + 4, current * 2)


@dataclass
class Fixed:
    name: str
    min_replicas: int
    every_s: float = math.inf

    def tick(self, at_s: float, pool: Pool) -> int | None:
        return None


@dataclass
class Policy:
    """services.scaler.policy, observed every second; the HPA takes its answer as it is (stabilisation 0: the policy has
    its own delay), KEDA wakes from zero at once and goes to zero at its poll."""

    terms: Terms
    name: str = "antiphon"
    every_s: float = 1.0
    _next_hpa_s: float = 0.0
    _next_poll_s: float = 0.0
    _policy: ReplicaPolicy = field(init=False)

    def __post_init__(self) -> None:
        self._policy = ReplicaPolicy(self.terms)

    @property
    def min_replicas(self) -> int:
        return self.terms.min_replicas

    def tick(self, at_s: float, pool: Pool) -> int | None:
        decision = self._policy.decide(load_of(at_s, pool))
        current = len(pool.replicas)
        if current == 0:
            return 1 if decision.active else None
        if at_s >= self._next_hpa_s:
            self._next_hpa_s = at_s + HPA_SYNC_S
            if decision.replicas and follows(decision.replicas, current):
                return min(decision.replicas, most_at_once(current))
        if at_s >= self._next_poll_s:
            self._next_poll_s = at_s + KEDA_POLL_S
            if not decision.active and self.terms.min_replicas == 0:
                return 0
        return None


def load_of(at_s: float, pool: Pool) -> QueueLoad:
    return QueueLoad(
        at_s=at_s,
        waiting=len(pool.waiting),
        head_age_s=at_s - pool.waiting[0][0] if pool.waiting else 0.0,
        workers=pool.ready,
        slots=pool.ready * pool.slots,
        busy=pool.busy,
        arrivals_per_s=pool.came.rate_per_s(at_s),
        hold_s=pool.hold_s(at_s),
    )


@dataclass
class CpuHpa:
    """The HPA on CPU, as kind to it as can be: the CPU's use is exactly the share of busy slots. (Real engines poll: a
    thinker's process burns a core whatever it does.) Up at most by four pods or 100 % in 15 s, down only to the highest
    of the last 300 s, pods that start count as idle where it would go up: Kubernetes' defaults."""

    max_replicas: int
    min_replicas: int = 1
    target: float = 0.8
    name: str = "HPA on CPU"
    every_s: float = HPA_SYNC_S
    _recommended: deque[tuple[float, int]] = field(default_factory=deque[tuple[float, int]])
    _busy_s: float = 0.0
    _slot_s: float = 0.0

    def tick(self, at_s: float, pool: Pool) -> int | None:
        pool.integrate(at_s)
        busy_s, slot_s = pool.busy_seconds - self._busy_s, pool.slot_seconds - self._slot_s
        self._busy_s, self._slot_s = pool.busy_seconds, pool.slot_seconds
        current = len(pool.replicas)
        wanted = current if slot_s == 0 else self._wanted(busy_s / slot_s / self.target, pool.ready, current)
        self._recommended.append((at_s, wanted))
        while self._recommended[0][0] < at_s - 300:
            self._recommended.popleft()
        if wanted < current:
            wanted = min(current, max(number for _, number in self._recommended))
        wanted = min(wanted, most_at_once(current))
        return min(max(wanted, self.min_replicas), self.max_replicas)

    def _wanted(self, ratio: float, ready: int, current: int) -> int:
        if ready == current or ratio <= 1:
            return current if abs(1 - ratio) <= HPA_TOLERANCE else math.ceil(ratio * ready)
        spread = ratio * ready / current
        if abs(1 - spread) <= HPA_TOLERANCE or spread < 1:
            return current
        return max(current, math.ceil(spread * current))
