"""The accounts of all turns of this gateway: they are kept alive in Redis, put back there, and closed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from services.common.errors import Unavailable
from services.gateway import metrics
from services.gateway.usage.limits import Terms
from services.gateway.usage.operations import KnownUse, Renewal, SoFar
from services.gateway.usage.prices import PriceList
from services.gateway.usage.script import UsageScript
from services.gateway.usage.settlement import Settlement
from services.gateway.usage.spool import Spool

HEARTBEAT_S = 3.0
AWAY_BEAT_S = 0.5
"""While Redis is away."""
GATEWAY_TTL_S = 15.0
"""Turns of a gateway that was silent for so long are lost."""
PATIENCE_S = 15.0
"""How long an answer waits for a Redis that is away, where its limits must be checked."""
REMEMBER_S = 50.0
"""How long a turn that ended is remembered: less than lua/ does (CLOSED_MS), so that none is counted twice."""
GATHER_S = 0.05
"""How long calls that nobody waits for are gathered, so that one tells of many turns."""
TELL_S = 0.02
"""The same where a turn goes on meanwhile, and may send no more than a draw until Redis knows."""
FIRST_TELL_S = 0.25
"""Redis is told of what is sent first within this: many answers have ended by then."""
_MOST_ENDED = 10_000
_RENEW_AT_ONCE = 32
_REAP_AT_ONCE = 8

logger = logging.getLogger(__name__)


class OpenAccount(Protocol):
    @property
    def turn_id(self) -> str: ...

    @property
    def must_tell(self) -> bool:
        """Whether Redis must be told how far the turn is, before the next beat."""
        ...

    def so_far(self) -> SoFar:
        """Return what Redis is told: what the turn's record says if it is lost now."""
        ...

    async def restore(self) -> None:
        """Put the account back into Redis, which has lost it. Raise Unavailable."""
        ...


class UsedSource(Protocol):
    async def used(self, subjects: Sequence[str]) -> tuple[Sequence[KnownUse], int]:
        """Return what ended turns of subjects used in the present day and month, of all metrics; and when the last of
        these turns ended, ms since the epoch, 0 = there are none. Raise Unavailable."""
        ...


class NothingUsed:
    """Where no control plane knows."""

    async def used(self, subjects: Sequence[str]) -> tuple[Sequence[KnownUse], int]:
        return [KnownUse(subject, span, {}) for subject in subjects for span in ("day", "month")], 0


@dataclass(slots=True, eq=False)
class Books:
    """`run` must run in the background. `gateway_id` must be new with each start of the process."""

    script: UsageScript
    gateway_id: str
    terms: Terms
    prices: PriceList
    spool: Spool
    used: UsedSource = field(default_factory=NothingUsed)
    text_grant: int = 32
    """Answer tokens that are drawn at a time."""
    audio_grant_ms: int = 1000
    """Speech that is drawn at a time."""
    ttl_s: float = GATEWAY_TTL_S
    heartbeat_s: float = HEARTBEAT_S
    patience_s: float = PATIENCE_S
    clock: Callable[[], float] = time.time
    reachable: asyncio.Event = field(default_factory=asyncio.Event)
    """Set while Redis answers, as far as is known."""
    open: dict[str, OpenAccount] = field(default_factory=dict[str, OpenAccount])
    _rebuilding: dict[tuple[str, ...], asyncio.Task[bool]] = field(
        default_factory=dict[tuple[str, ...], asyncio.Task[bool]]
    )

    _ended: deque[tuple[float, Settlement]] = field(default_factory=deque[tuple[float, Settlement]])
    """Turns that were closed a moment ago, and when: Redis may lose them before the control plane has them."""
    _went_away: asyncio.Event = field(default_factory=asyncio.Event)
    _memory: str = ""
    """The name of Redis' memory, which it loses with all else; "" = not known yet."""
    _opening: set[str] = field(default_factory=set[str])
    """Turns whose accounts are not open yet, and may wait to be opened with other calls."""
    _untold: set[str] = field(default_factory=set[str])
    """Open turns that got on."""
    _has_untold: asyncio.Event = field(default_factory=asyncio.Event)
    _first_due: dict[str, float] = field(default_factory=dict[str, float])
    """Open turns of which something was sent, and when Redis is told of it at the latest, in the loop's time."""
    _first_timer: asyncio.TimerHandle | None = None

    def __post_init__(self) -> None:
        self.reachable.set()

    async def run(self) -> None:
        """Beat until cancelled. The turns must have ended before."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._beat_on(), name="usage beats")
                tasks.create_task(self._tell_on(), name="usage tells")
        finally:
            with suppress(Unavailable):
                await self._drain_spool()
                await self.script.leave(self.gateway_id)

    def note_away(self) -> None:
        """Note that Redis did not answer. The next beats find out when it does."""
        if self.reachable.is_set():
            self.reachable.clear()
            self._went_away.set()

    def tell(self, turn_id: str) -> None:
        """Have Redis told soon how far an open turn is."""
        self._untold.add(turn_id)
        self._has_untold.set()

    def tell_first(self, turn_id: str) -> None:
        """Have Redis told that something was sent, unless it knows by then."""
        self.hurry_open(turn_id)
        loop = asyncio.get_running_loop()
        self._first_due[turn_id] = due_s = loop.time() + FIRST_TELL_S
        if self._first_timer is None:
            self._first_timer = loop.call_at(due_s, self._tell_firsts)

    def hurry_open(self, turn_id: str) -> None:
        """Have Redis get to know a turn at once, before anything of it is sent: there is a record of it then, though
        this gateway dies."""
        if turn_id in self._opening:
            self._opening.remove(turn_id)
            self.script.hurry()

    def _tell_firsts(self) -> None:
        """Tell of the turns that are due. One timer is for all: most turns end before."""
        loop, self._first_timer = asyncio.get_running_loop(), None
        while self._first_due:
            turn_id, due_s = next(iter(self._first_due.items()))
            if due_s > loop.time():
                self._first_timer = loop.call_at(due_s, self._tell_firsts)
                return
            del self._first_due[turn_id]
            account = self.open.get(turn_id)
            if account is not None and account.must_tell:
                self.tell(turn_id)

    def open_unlimited(self, account: OpenAccount, so_far: SoFar) -> None:
        """Open an account that nothing limits: nobody waits for it. Where Redis is away, it is put there later."""
        self.open[account.turn_id] = account
        if self.reachable.is_set():
            asked = self.script.open_unlimited(
                account.turn_id, self.gateway_id, so_far=so_far, ttl_s=self.ttl_s, within_s=GATHER_S
            )
            self._opening.add(account.turn_id)
            asked.add_done_callback(partial(self._opened, account.turn_id))

    def _opened(self, turn_id: str, asked: asyncio.Future[Any]) -> None:
        self._opening.discard(turn_id)
        error = None if asked.cancelled() else asked.exception()
        if isinstance(error, Unavailable):
            self.note_away()
        elif error is not None:
            logger.error("an account was not opened", exc_info=error)

    async def wait_reachable(self, until_s: float) -> None:
        """Wait until Redis answers, or until `until_s`, monotonic seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(until_s - time.monotonic(), 0.001)):
                await self.reachable.wait()

    async def settle(self, settlement: Settlement, *, has_scarce_place: bool) -> None:
        """Close a turn's account. Where Redis is away, that is done later. `has_scarce_place`: it runs at a time with
        others, for whom few places are left."""
        self.open.pop(settlement.turn_id, None)
        self._first_due.pop(settlement.turn_id, None)
        if self.reachable.is_set():
            try:
                # The client may use its place again as soon as it has its answer, through another gateway, too.
                await self._close(settlement, within_s=0.0 if has_scarce_place else GATHER_S)
            except Unavailable:
                self.note_away()
            else:
                self._remember(settlement)
                return
        await self.spool.add(settlement)

    async def rebuild(self, subjects: Iterable[str]) -> bool:
        """Make the counts of subjects that Redis lacks. Return False where the control plane is away. Raise Unavailable
        where Redis is."""
        wanted = tuple(sorted(subjects))
        task = self._rebuilding.get(wanted)
        if task is None:
            task = self._rebuilding[wanted] = asyncio.create_task(self._rebuild(wanted), name="rebuild quotas")
            task.add_done_callback(lambda _: self._rebuilding.pop(wanted, None))
        return await asyncio.shield(task)

    async def _rebuild(self, subjects: Sequence[str]) -> bool:
        asked_unix_ms = round(self.clock() * 1000)
        try:
            uses, known_until_ms = await self.used.used(subjects)
        except Unavailable:
            logger.warning("the counts of %d subjects can't be made: the control plane is away", len(subjects))
            return False
        await self.script.rebuild(secrets.token_hex(8), uses, asked_unix_ms)
        for ended_s, settlement in list(self._ended):
            is_new = settlement.ended_unix_ms > known_until_ms and time.monotonic() - ended_s < REMEMBER_S
            if is_new and any(limit.subject in subjects for limit in settlement.limits):
                await self._close_now(settlement)  # Redis refuses it where it lost nothing
        return True

    async def _beat_on(self) -> None:
        while True:
            try:
                await self.beat()
                self.reachable.set()
                await self._drain_spool()
            except Unavailable:
                self.note_away()
            self._went_away.clear()
            pause_s = self.heartbeat_s if self.reachable.is_set() else min(self.heartbeat_s, AWAY_BEAT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._went_away.wait()

    async def _tell_on(self) -> None:
        while True:
            await self._has_untold.wait()
            await asyncio.sleep(TELL_S)
            self._has_untold.clear()
            untold, self._untold = self._untold, set()
            if self.reachable.is_set():  # else the next beat tells
                accounts = [self.open[turn_id] for turn_id in untold if turn_id in self.open]
                try:
                    await self._renew([account for account in accounts if account.must_tell])
                except Unavailable:
                    self.note_away()

    def _remember(self, settlement: Settlement) -> None:
        now_s = time.monotonic()
        self._ended.append((now_s, settlement))
        while len(self._ended) > _MOST_ENDED or now_s - self._ended[0][0] >= REMEMBER_S:
            self._ended.popleft()

    async def beat(self) -> None:
        """Keep this gateway's accounts alive, put back what Redis lost, close the accounts of gateways that died.

        Raise Unavailable.
        """
        memory, dead = await self.script.beat(self.gateway_id, secrets.token_hex(8), ttl_s=self.ttl_s)
        was_lost = bool(self._memory) and memory != self._memory
        written = await self._write_again() if was_lost else 0
        await self._renew(list(self.open.values()))
        self._memory = memory
        if was_lost:  # told when it is mended: who reads this may take the gateway away
            logger.warning("Redis had lost its memory: the records of the last %d turns were written again", written)
        while dead and (closed := await self.script.reap(_REAP_AT_ONCE)):
            metrics.USAGE_LOST.inc(closed)
            logger.warning("%d turns of a gateway that died were closed", closed)

    async def _renew(self, accounts: Sequence[OpenAccount]) -> None:
        """Say that accounts are open, and how far their turns are. Put back those that Redis lost."""
        for begin in range(0, len(accounts), _RENEW_AT_ONCE):
            some = {account.turn_id: account for account in accounts[begin : begin + _RENEW_AT_ONCE]}
            renewals = [Renewal(turn_id, account.so_far()) for turn_id, account in some.items()]
            renewed = await self.script.renew(renewals, ttl_s=self.ttl_s)
            for turn_id in renewed.closed:  # by another: it must not come back where Redis loses its memory
                self.open.pop(turn_id, None)
            for turn_id in renewed.unknown:
                if turn_id in self.open:
                    await some[turn_id].restore()
            if renewed.missing:
                await self.rebuild(renewed.missing)

    async def _write_again(self) -> int:
        """Write the records anew that Redis may have lost before the control plane read them: it takes each once.
        Return how many."""
        since_s = time.monotonic() - REMEMBER_S
        ended = [settlement for ended_s, settlement in self._ended if ended_s >= since_s]
        quotas = {limit.subject for settlement in ended for limit in settlement.limits if limit.kind.is_quota}
        if quotas:
            await self.rebuild(quotas)  # counts those of them that the control plane does not know
        for settlement in ended:
            await self.script.close(settlement.turn_id, (), settlement.actual, opened=True)
        return len(ended)

    async def _drain_spool(self) -> None:
        async for settlement in self.spool.settlements():
            await self._close(settlement)
            self._remember(settlement)
            await self.spool.remove(settlement)

    async def _close(self, settlement: Settlement, *, within_s: float = 0.0) -> None:
        missing = await self.script.close(
            settlement.turn_id,
            settlement.limits,
            settlement.actual,
            opened=settlement.is_sure,
            within_s=within_s,
        )
        if missing:
            await self.rebuild(missing)
            await self._close_now(settlement)

    async def _close_now(self, settlement: Settlement) -> None:
        await self.script.close(
            settlement.turn_id, settlement.limits, settlement.actual, opened=settlement.is_sure, force=True
        )
