"""A worker's slots. They alone decide which slots are free.

Each free slot already has the id of its next lease, drawn before the worker asks Redis for tickets. When Redis' answer
is lost, the worker therefore knows every lease that may have been granted. It serves a call that comes with one of
them, and asks again with the same ids; Redis answers with the same grants, and the other ids are given up.
"""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from services.common.errors import LEASE_GONE, Gone
from services.common.queues.tickets import PriorityClass


@dataclass(slots=True)
class Slots:
    """`total` slots, each free, granted (waits to be opened) or open. Not thread-safe: one event loop uses it.

    `changed` is called whenever a slot becomes free; `clock` returns monotonic seconds.
    """

    total: int
    grant_timeout_s: float
    clock: Callable[[], float]
    changed: Callable[[], None]
    _offered: dict[str, None] = field(default_factory=dict[str, None], init=False)
    held: Counter[str] = field(default_factory=Counter[str], init=False)
    """How many slots each tenant, and each group with a limit, holds, granted or open. A lease that was opened before
    its grant was heard of counts once it is."""
    batches: set[str] = field(default_factory=set[str], init=False)
    """The leases of tickets at or below BATCH that count in `held`."""
    _holders_of: dict[str, list[str]] = field(default_factory=dict[str, list[str]], init=False)
    _granted: dict[str, float] = field(default_factory=dict[str, float], init=False)
    _open: dict[str, float] = field(default_factory=dict[str, float], init=False)
    _calls: dict[str, asyncio.Task[Any] | None] = field(
        default_factory=dict[str, "asyncio.Task[Any] | None"], init=False
    )
    _freed_early: set[str] = field(default_factory=set[str], init=False)
    _closed: int = field(default=0, init=False)
    _held_s: float = field(default=0.0, init=False)

    def __post_init__(self) -> None:
        if self.total < 1:
            raise ValueError(f"slots is {self.total}")
        self._refill()

    @property
    def free(self) -> int:
        return len(self._offered)

    @property
    def busy(self) -> int:
        return self.total - self.free

    @property
    def progress_s(self) -> float:
        """Seconds since each open lease was opened, all added up."""
        return self.clock() * len(self._open) - sum(self._open.values())

    @property
    def unheard(self) -> list[str]:
        """Open leases that hold slots, of whose grants this worker has not heard."""
        return [lease for lease in self._open if lease not in self._holders_of and lease not in self._freed_early]

    def offers(self, most: int) -> list[str]:
        """Return up to `most` lease ids of free slots, oldest first."""
        return list(self._offered)[:most]

    def renew_offers(self) -> None:
        """Offer other ids: Redis may have granted these and forgotten it. A call that comes with one is refused."""
        self._offered.clear()
        self._refill()

    def grant(self, lease_id: str, tenant: str = "", priority: int = PriorityClass.ORDINARY, group: str = "") -> None:
        """Note that Redis has granted this lease. The gateway's call may have come before Redis' answer."""
        if lease_id in self._offered:
            del self._offered[lease_id]
            self._granted[lease_id] = self.clock() + self.grant_timeout_s
        elif lease_id not in self.unheard:
            return
        if priority <= PriorityClass.BATCH:
            self.batches.add(lease_id)
        self._holders_of[lease_id] = holders = [tenant, group] if group else [tenant]
        self.held.update(holders)

    def give_back(self, lease_id: str) -> None:
        """Free the slot of a lease that its gateway will not use. An open lease stays until its call ends."""
        if lease_id in self._offered:
            del self._offered[lease_id]
        elif lease_id in self._granted:
            del self._granted[lease_id]
        else:
            return
        self._freed(lease_id)

    def expire(self) -> float | None:
        """Free the slots of leases that expired unopened. Return the seconds until the next one expires, or None."""
        now = self.clock()
        late = [lease_id for lease_id, deadline in self._granted.items() if deadline <= now]
        for lease_id in late:
            del self._granted[lease_id]
        if late:
            self._freed(*late)
        return min(self._granted.values()) - now if self._granted else None

    @contextmanager
    def open(self, lease_id: str) -> Generator[Callable[[], None]]:
        """Hold the slot of a granted lease while the block runs. Yield a function that frees it earlier, for a call
        that waits for something else. Raise Gone for an unknown lease or a second call."""
        if lease_id in self._granted:
            del self._granted[lease_id]
        elif lease_id in self._offered:
            del self._offered[lease_id]
        else:
            raise Gone("This lease is unknown, used or expired.", code=LEASE_GONE)
        opened_at_s = self._open[lease_id] = self.clock()
        self._calls[lease_id] = _current_task()

        def free_early() -> None:
            if lease_id in self._open and lease_id not in self._freed_early:
                self._freed_early.add(lease_id)
                self._note_hold(lease_id, opened_at_s)

        try:
            yield free_early
        finally:
            del self._open[lease_id], self._calls[lease_id]
            if lease_id in self._freed_early:
                self._freed_early.remove(lease_id)
                self.changed()
            else:
                self._note_hold(lease_id, opened_at_s)

    def _note_hold(self, lease_id: str, opened_at_s: float) -> None:
        self._closed += 1
        self._held_s += self.clock() - opened_at_s
        self._freed(lease_id)

    @property
    def idle(self) -> bool:
        """Whether no lease is granted or open, be its slot freed early or not."""
        return not self._granted and not self._open

    @property
    def calls(self) -> list[asyncio.Task[Any]]:
        """The tasks that hold open leases."""
        return [call for call in self._calls.values() if call is not None]

    def take_holds(self) -> tuple[int, float]:
        """Return the number of leases closed since the last call, and the sum of their open times in seconds."""
        closed, held_s = self._closed, self._held_s
        self._closed, self._held_s = 0, 0.0
        return closed, held_s

    def _freed(self, *leases: str) -> None:
        for lease_id in leases:
            self.batches.discard(lease_id)
            for holder in self._holders_of.pop(lease_id, ()):
                self.held[holder] -= 1
                if not self.held[holder]:
                    del self.held[holder]
        self._refill()
        self.changed()

    def _refill(self) -> None:
        while len(self._offered) + len(self._granted) + len(self._open) - len(self._freed_early) < self.total:
            self._offered[secrets.token_hex(16)] = None


def _current_task() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no event loop runs
        return None
