"""Whose file is decoded next: fair between tenants by what decoding costs, small files before large ones.

A place decodes one file at a time. Files wait in two lanes. In the small lane wait those that nobody has looked into
yet, and those that turned out small; in the large lane those that turned out large. One place serves the small lane
alone, so that a small file waits for small ones only.

In each lane the tenant that has cost least goes first, and of its files the smallest. A tenant that comes back after a
pause has no credit for it.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import count

from services.preprocess.decoding.processes import Decoder


class Lane(StrEnum):
    SMALL = "small"
    LARGE = "large"


@dataclass(eq=False, slots=True)
class Place:
    """Where one file at a time is decoded. `lanes`: which it serves, the first one first. `decoder`: one that has no
    job, or None."""

    lanes: tuple[Lane, ...]
    decoder: Decoder | None = None


def make_places(size: int) -> list[Place]:
    """Return `size` places. A single one serves both lanes."""
    if size == 1:
        return [Place((Lane.SMALL, Lane.LARGE))]
    # A large file that waits for its place goes before small ones there: they have a place of their own.
    return [Place((Lane.SMALL,)), *(Place((Lane.LARGE, Lane.SMALL)) for _ in range(size - 1))]


@dataclass(eq=False, slots=True)
class _Waiting:
    size: float
    order: int
    place: asyncio.Future[Place]

    def __lt__(self, other: _Waiting) -> bool:
        return (self.size, self.order) < (other.size, other.order)


@dataclass(slots=True)
class _Clocks:
    """What each tenant has cost, in seconds. `now` is the cost of the tenant that went last."""

    now: float = 0.0
    spent: dict[str, float] = field(default_factory=dict[str, float])

    def of(self, tenant: str) -> float:
        return max(self.spent.get(tenant, 0.0), self.now)

    def charge(self, tenant: str, cost: float) -> None:
        self.spent[tenant] = self.of(tenant) + cost

    def forget(self) -> None:
        """Drop the tenants that owe nothing."""
        self.spent = {tenant: spent for tenant, spent in self.spent.items() if spent > self.now}


class Schedule:
    """Hands places out. Not thread-safe: one event loop uses it. A choice looks at each tenant that waits."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._idle = list(places)
        self._lanes: dict[Lane, dict[str, list[_Waiting]]] = {lane: {} for lane in Lane}
        self._clocks = _Clocks()
        self._order = count()

    def charge(self, tenant: str, cost_s: float) -> None:
        """Note what a file of the tenant costs, once it is known."""
        self._clocks.charge(tenant, cost_s)

    async def take(self, lane: Lane, tenant: str, size: float) -> Place:
        """Wait for a place. `size` orders the files of one tenant. The caller gives the place back by `release`."""
        waiting = _Waiting(size, next(self._order), asyncio.get_running_loop().create_future())
        # A tenant that begins to wait owes at least what the last one did.
        if not any(tenant in tenants for tenants in self._lanes.values()):
            self._clocks.charge(tenant, 0.0)
        heapq.heappush(self._lanes[lane].setdefault(tenant, []), waiting)
        self._hand_out()
        try:
            return await waiting.place
        except asyncio.CancelledError:
            if waiting.place.done() and not waiting.place.cancelled():
                self.release(waiting.place.result())
            else:
                self._remove(lane, tenant, waiting)
            raise

    def release(self, place: Place) -> None:
        self._idle.append(place)
        self._hand_out()

    def has_work_for(self, place: Place) -> bool:
        """Return whether a file waits that this place may decode."""
        return any(self._lanes[lane] for lane in place.lanes)

    def _hand_out(self) -> None:
        # A place that serves fewer lanes first: it leaves the other places to the other lanes.
        for place in sorted(self._idle, key=lambda place: len(place.lanes)):
            while (lane := next((lane for lane in place.lanes if self._lanes[lane]), None)) is not None:
                waiting = self._next(lane)
                if not waiting.place.done():  # else its call was cancelled in the same moment
                    self._idle.remove(place)
                    waiting.place.set_result(place)
                    break
        self._clocks.forget()

    def _next(self, lane: Lane) -> _Waiting:
        tenants = self._lanes[lane]
        tenant = min(tenants, key=lambda tenant: (self._clocks.of(tenant), tenants[tenant][0].order))
        self._clocks.now = max(self._clocks.now, min(self._clocks.of(other) for other in self._waiting_tenants()))
        waiting = heapq.heappop(tenants[tenant])
        if not tenants[tenant]:
            del tenants[tenant]
        return waiting

    def _waiting_tenants(self) -> set[str]:
        return {tenant for tenants in self._lanes.values() for tenant in tenants}

    def _remove(self, lane: Lane, tenant: str, waiting: _Waiting) -> None:
        queue = self._lanes[lane].get(tenant, [])
        if waiting not in queue:  # passed over since
            return
        queue.remove(waiting)
        heapq.heapify(queue)
        if not queue:
            del self._lanes[lane][tenant]
