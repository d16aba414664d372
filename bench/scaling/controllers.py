"""Controllers of the number of replicas: our policy through KEDA, the HPA on CPU, and a fixed number.

The first two act through the same HPA, with its documented algorithm and defaults: a sync every 15 s, a tolerance of
0.1. Each class states its limits.
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
        """The seconds between two calls of `tick`."""
        ...

    @property
    def min_replicas(self) -> int:
        """The least number of replicas."""
        ...

    def tick(self, at_s: float, pool: Pool) -> int | None:
        """Return the new number of replicas, or None for no change."""
        ...


def follows(wanted: int, current: int) -> bool:
    """Return whether the HPA acts on an AverageValue metric: the ratio is outside the tolerance."""
    return current > 0 and abs(1.0 - wanted / current) > HPA_TOLERANCE + 1e-12


def most_at_once(current: int) -> int:
    """Return the most replicas after one sync of the HPA: four more or 100 %, its default and our charts' value."""
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
    """services.scaler.policy, which observes every second.

    The HPA follows it without stabilisation, as the policy has its own delay. KEDA starts the first replica at once,
    and goes to zero at its poll.
    """

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
    """The HPA on CPU, at its best: CPU use equals the share of busy slots. (A real thinker always uses a core to poll.)

    It has Kubernetes' defaults: up by at most four pods or 100 % in 15 s, down only to the highest value of the last
    300 s, and starting pods count as idle when it would scale up.
    """

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
