"""A simulated stage: a queue, replicas with slots, and their statistics. The caller passes events in order of time.

It follows the real stages. A ticket goes to the replica with most free slots. A replica that is removed finishes its
calls. Kubernetes first removes replicas that still start, then the youngest.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field


class Decayed:
    """A sum with exponential decay, with the formula and time constants of the queues' load.lua."""

    def __init__(self, over_s: float) -> None:
        self._over_s = over_s
        self._sum, self._at_s = 0.0, 0.0
        self._since_s: float | None = None

    def add(self, at_s: float, number: float) -> None:
        if self._since_s is None:
            self._since_s = at_s
        self._sum = self.value(at_s) + number
        self._at_s = at_s

    def value(self, at_s: float) -> float:
        return self._sum * math.exp((self._at_s - at_s) / self._over_s)

    def rate_per_s(self, at_s: float) -> float:
        if self._since_s is None:
            return 0.0
        seen_s = max(1.0, at_s - self._since_s)
        return self.value(at_s) / (self._over_s * (1 - math.exp(-seen_s / self._over_s)))


@dataclass(slots=True, eq=False)
class Replica:
    asked_s: float
    ready_s: float
    free: int = 0
    busy: int = 0
    ready: bool = False
    # It accepts no new tickets.
    leaves: bool = False


@dataclass
class Pool:
    slots: int
    max_waiting: int
    deadline_s: float
    waits_s: list[float] = field(default_factory=list[float])
    refused: int = 0
    replica_seconds: float = 0.0
    most_replicas: int = 0
    changes: int = 0

    def __post_init__(self) -> None:
        # In the order of their start; the last is removed first.
        self.replicas: dict[Replica, None] = {}
        self.ready = 0
        self.busy = 0
        # The queue of waiting tickets: (arrival, hold time).
        self.waiting: deque[tuple[float, float]] = deque()
        # Replicas that accept tickets, by number of free slots.
        self._by_free: list[dict[Replica, None]] = [{} for _ in range(self.slots + 1)]
        self.came = Decayed(30.0)  # includes refused tickets
        self._held, self._closed = Decayed(120.0), Decayed(120.0)
        # Integrals over time of busy slots and of all slots, over ready replicas that accept tickets.
        self.busy_seconds = 0.0
        self.slot_seconds = 0.0
        self._integrated_s = 0.0

    def integrate(self, at_s: float) -> None:
        passed_s = at_s - self._integrated_s
        self.busy_seconds += self.busy * passed_s
        self.slot_seconds += self.ready * self.slots * passed_s
        self._integrated_s = at_s

    def hold_s(self, at_s: float) -> float:
        closed = self._closed.value(at_s)
        return self._held.value(at_s) / closed if closed > 0 else 0.0

    # Tickets. Each call returns the grants: (replica, hold time of its ticket).

    def arrive(self, at_s: float, hold_s: float) -> list[tuple[Replica, float]]:
        self.came.add(at_s, 1)
        free, slots = self.ready * self.slots - self.busy, self.ready * self.slots
        # As in load.lua's capacity(): the wait for the tickets ahead.
        wait_s = self.hold_s(at_s) / slots * (len(self.waiting) + 1 - free) if slots else 0.0
        if len(self.waiting) >= self.max_waiting or wait_s > self.deadline_s:
            self.refused += 1
            return []
        self.waiting.append((at_s, hold_s))
        return self.grant(at_s)

    def close(self, at_s: float, replica: Replica, hold_s: float) -> list[tuple[Replica, float]]:
        self._held.add(at_s, hold_s)
        self._closed.add(at_s, 1)
        if replica.leaves:
            replica.busy -= 1
            if replica.busy == 0:
                self._end(at_s, replica)
            return []
        self.integrate(at_s)
        self.busy -= 1
        replica.busy -= 1
        self._move(replica, replica.free + 1)
        return self.grant(at_s)

    def grant(self, at_s: float) -> list[tuple[Replica, float]]:
        granted: list[tuple[Replica, float]] = []
        while self.waiting and (replica := self._freest()) is not None:
            came_s, hold_s = self.waiting.popleft()
            self.integrate(at_s)
            self.busy += 1
            replica.busy += 1
            self._move(replica, replica.free - 1)
            self.waits_s.append(at_s - came_s)
            granted.append((replica, hold_s))
        return granted

    def _freest(self) -> Replica | None:
        for level in range(self.slots, 0, -1):
            for replica in self._by_free[level]:
                return replica
        return None

    def _move(self, replica: Replica, free: int) -> None:
        del self._by_free[replica.free][replica]
        replica.free = free
        self._by_free[free][replica] = None

    # Replicas

    def scale(self, at_s: float, wanted: int, start_s: float) -> list[Replica]:
        """Start or remove replicas. Return those that start."""
        if wanted != len(self.replicas):
            self.changes += 1
        while len(self.replicas) > wanted:
            starting = [replica for replica in self.replicas if not replica.ready]
            self._take_away(at_s, starting[-1] if starting else next(reversed(self.replicas)))
        started = [Replica(at_s, at_s + start_s) for _ in range(wanted - len(self.replicas))]
        self.replicas.update(dict.fromkeys(started))
        self.most_replicas = max(self.most_replicas, len(self.replicas))
        return started

    def become_ready(self, at_s: float, replica: Replica) -> list[tuple[Replica, float]]:
        if replica.leaves:
            return []
        self.integrate(at_s)
        replica.ready = True
        replica.free = self.slots
        self.ready += 1
        self._by_free[self.slots][replica] = None
        return self.grant(at_s)

    def _take_away(self, at_s: float, replica: Replica) -> None:
        del self.replicas[replica]
        replica.leaves = True
        if replica.ready:
            self.integrate(at_s)
            self.ready -= 1
            self.busy -= replica.busy
            del self._by_free[replica.free][replica]
        if replica.busy == 0:
            self._end(at_s, replica)

    def _end(self, at_s: float, replica: Replica) -> None:
        self.replica_seconds += at_s - replica.asked_s

    def finish(self, at_s: float) -> None:
        """Count the replicas that still run at the end of the trace."""
        for replica in self.replicas:
            self._end(at_s, replica)
