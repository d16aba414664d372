"""The memory that the requests of one process may take together. They take from it before they allocate.

    budget = MemoryBudget(container_bytes() // 2, "requests")
    async with budget.take(len(body), what="The body", tenant=tenant) as hold:
        ...
        await hold.grow(frames_bytes)   # with take(..., most_bytes=...)
        hold.shrink(len(body))          # as soon as it is freed

Who must wait for room waits in order of arrival, tenant by tenant in turn; nobody passes the first one. Growth goes
before new holds.

A hold may grow up to the `most_bytes` that it was taken with. Holds that wait for each other's room can't all stand
still: room is given only where, whatever the holds still grow to, one after another can come to its end (the banker's
algorithm, for one resource). A holder must therefore not wait for another hold of the same budget, nor for one that
does. Work in stages takes each stage from a budget of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import Gauge

from services.common.errors import TooLarge

MEMORY_BYTES = Gauge(
    "antiphon_memory_budget_bytes",
    "Bytes of a memory budget: all of it, what requests hold, and what they wait for.",
    ("budget", "state"),  # total, held, waiting
)
_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")


def container_bytes(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the memory that this process's container may take: its cgroup's limit, else the machine's memory."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    machine = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemTotal"))
    for name in _CGROUP_LIMITS:
        try:
            limit = (cgroup / name).read_text().strip()
        except OSError:
            continue
        return min(int(limit), machine) if limit.isdigit() else machine
    return machine


@dataclass(eq=False, slots=True)
class Hold:
    """Bytes that a request has taken, and the most that it may have at a time. `take` makes it and gives it back."""

    _budget: MemoryBudget
    what: str
    param: str | None
    most_bytes: int
    size_bytes: int = 0

    async def grow(self, by_bytes: int) -> None:
        """Wait for room for `by_bytes` more. Raise TooLarge at once where the hold would be over `most_bytes`."""
        await self._budget.enlarge(self, by_bytes)

    def shrink(self, by_bytes: int) -> None:
        """Give `by_bytes` back. The hold may grow again."""
        self._budget.give_back(self, by_bytes)

    def settle(self, by_bytes: int = 0) -> None:
        """Promise to grow by at most `by_bytes` from now on. Others then wait less."""
        self.most_bytes = min(self.most_bytes, self.size_bytes + by_bytes)
        self._budget.give_back(self, 0)

    def grow_at_once(self, by_bytes: int) -> bool:
        """Take `by_bytes` more, of a hold from `take_at_once`. Return False, and take nothing, where there is no
        room now."""
        return self._budget.enlarge_at_once(self, by_bytes)


@dataclass(eq=False, slots=True)
class _Waiting:
    hold: Hold
    size_bytes: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class MemoryBudget:
    """`total_bytes` for all holds together. `name` labels its metrics. Not thread-safe: one event loop uses it."""

    def __init__(self, total_bytes: int, name: str = "requests") -> None:
        if total_bytes < 1:
            raise ValueError("a memory budget needs at least one byte")
        self.total_bytes = total_bytes
        self.held_bytes = 0
        self.waiting_bytes = 0
        self._holds: set[Hold] = set()
        self._growing: list[_Waiting] = []
        # The tenant that is next stands first.
        self._arriving: dict[str, deque[_Waiting]] = {}
        MEMORY_BYTES.labels(name, "total").set(total_bytes)
        MEMORY_BYTES.labels(name, "held").set_function(lambda: self.held_bytes)
        MEMORY_BYTES.labels(name, "waiting").set_function(lambda: self.waiting_bytes)

    @property
    def holds(self) -> int:
        """How many hold something."""
        return len(self._holds)

    @property
    def waiting(self) -> int:
        """How many wait for room."""
        return len(self._growing) + self.arriving

    @property
    def arriving(self) -> int:
        """How many wait for their first room."""
        return sum(map(len, self._arriving.values()))

    def arriving_of(self, tenant: str) -> int:
        """Return how many of a tenant wait for their first room."""
        return len(self._arriving.get(tenant, ()))

    @asynccontextmanager
    async def take(
        self, size_bytes: int, *, what: str, tenant: str = "", most_bytes: int | None = None, param: str | None = None
    ) -> AsyncGenerator[Hold]:
        """Wait for `size_bytes`, hold them inside the block and give back what is held at its end.

        `most_bytes`: how much the hold may grow to; None = it does not grow. More than the budget counts as the whole
        budget. A hold that never has anything waits for nobody. Raise TooLarge at once, naming `what` and `param`,
        where `size_bytes` can never fit.
        """
        most_bytes = min(max(size_bytes, most_bytes or 0), self.total_bytes)
        hold = Hold(self, what, param, most_bytes)
        _require_room(hold, size_bytes)
        if not most_bytes:
            yield hold
            return
        waiting = _Waiting(hold, size_bytes)
        line = self._arriving.setdefault(tenant, deque())
        line.append(waiting)
        try:
            try:
                await self._granted(waiting)
            finally:
                if waiting in line:  # cancelled
                    line.remove(waiting)
                    if not line:
                        del self._arriving[tenant]
            yield hold
        finally:
            self._holds.discard(hold)
            self.give_back(hold, hold.size_bytes)

    @contextmanager
    def take_at_once(self, *, what: str) -> Generator[Hold]:
        """Hold nothing at first, and inside the block what `Hold.grow_at_once` finds room for. It never waits, so
        whoever holds something else that does not grow any more may have it too."""
        hold = Hold(self, what, None, 0)
        try:
            yield hold
        finally:
            self._holds.discard(hold)
            self.give_back(hold, hold.size_bytes)

    def enlarge_at_once(self, hold: Hold, by_bytes: int) -> bool:
        """See Hold.grow_at_once."""
        if not self._leaves_a_way_out(hold, by_bytes):
            return False
        hold.size_bytes += by_bytes
        hold.most_bytes = hold.size_bytes
        self.held_bytes += by_bytes
        self._holds.add(hold)
        return True

    async def enlarge(self, hold: Hold, by_bytes: int) -> None:
        """See Hold.grow."""
        if not by_bytes:
            return
        asked = sum(waiting.size_bytes for waiting in self._growing if waiting.hold is hold)
        _require_room(hold, hold.size_bytes + asked + by_bytes)
        waiting = _Waiting(hold, by_bytes)
        self._growing.append(waiting)
        try:
            await self._granted(waiting)
        finally:
            if waiting in self._growing:  # cancelled
                self._growing.remove(waiting)
                self._hand_out()

    def give_back(self, hold: Hold, by_bytes: int) -> None:
        """See Hold.shrink."""
        if not 0 <= by_bytes <= hold.size_bytes:
            raise ValueError(f"{hold.what} holds {hold.size_bytes} bytes and cannot give {by_bytes} back")
        hold.size_bytes -= by_bytes
        self.held_bytes -= by_bytes
        self._hand_out()

    async def _granted(self, waiting: _Waiting) -> None:
        self.waiting_bytes += waiting.size_bytes
        self._hand_out()
        try:
            await waiting.granted
        except asyncio.CancelledError:
            if not waiting.granted.cancelled():  # granted in the same moment
                self.give_back(waiting.hold, waiting.size_bytes)
            else:
                self.waiting_bytes -= waiting.size_bytes
            raise

    def _hand_out(self) -> None:
        # Each of those that grow may let another one come to its end, so none of them blocks the others.
        self._growing = [waiting for waiting in self._growing if not self._try(waiting)]
        while not self._growing and self._arriving:
            tenant, line = next(iter(self._arriving.items()))
            if not self._try(line[0]):
                return
            line.popleft()
            del self._arriving[tenant]
            if line:
                self._arriving[tenant] = line  # the last one now

    def _try(self, waiting: _Waiting) -> bool:
        """Give it its room. Return False where it must wait, True also for one that is cancelled."""
        if waiting.granted.done():
            return True
        hold, size_bytes = waiting.hold, waiting.size_bytes
        if not self._leaves_a_way_out(hold, size_bytes):
            return False
        hold.size_bytes += size_bytes
        self.held_bytes += size_bytes
        self.waiting_bytes -= size_bytes
        self._holds.add(hold)
        waiting.granted.set_result(None)
        return True

    def _leaves_a_way_out(self, hold: Hold, more_bytes: int) -> bool:
        """Return whether all holds can still end, one after another, once `hold` has `more_bytes` more."""
        free = self.total_bytes - self.held_bytes - more_bytes
        if free < 0:
            return False
        sizes = {one: one.size_bytes for one in self._holds} | {hold: hold.size_bytes + more_bytes}
        for need, size in sorted((one.most_bytes - size, size) for one, size in sizes.items()):
            if need > free:
                return False
            free += size
        return True


def _require_room(hold: Hold, size_bytes: int) -> None:
    if size_bytes > hold.most_bytes:
        raise TooLarge(
            f"{hold.what} needs {size_bytes} bytes of memory, and at most {hold.most_bytes} are allowed. "
            "Send less or smaller media.",
            param=hold.param,
        )
