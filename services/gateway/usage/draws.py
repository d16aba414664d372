"""What Redis holds for one turn, and the draws that change it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

from services.common.errors import Unavailable
from services.gateway import metrics
from services.gateway.usage.books import Books
from services.gateway.usage.limits import TurnTerms
from services.gateway.usage.operations import Draw, SoFar, Steps, Taken
from services.gateway.usage.prices import PICOS_PER_MICRO
from services.gateway.usage.refusals import limits_away

TRIES = 3


class Progress(Protocol):
    """The turn's account, which knows how far the turn is."""

    @property
    def has_news(self) -> bool:
        """Whether the client was sent more than Redis was told."""
        ...

    def so_far(self) -> SoFar: ...

    def take_back(self) -> list[Steps]:
        """Return what the next draw gives back, as steps of less than nothing. It does so once only: where no answer
        comes, Redis may have it back."""
        ...


class Draws:
    """Draws for one turn, one after another. It keeps no account, which keeps it: both go when their turn does."""

    def __init__(self, books: Books, terms: TurnTerms, turn_id: str) -> None:
        self._books = books
        self._terms = terms
        self._turn_id = turn_id
        # What Redis holds, and its exact cost.
        self._held: dict[str, int] = {}
        self._held_picos = 0
        # Of the last draw that was begun, and of the last that was answered.
        self._sequence = 0
        self._answered = 0
        self._one_draw = asyncio.Lock()
        self.takes_waiting = 0
        """How many takes wait for a draw. Meanwhile no draw of this turn waits for other calls: it may be before
        theirs."""

    def opened(self, takes: Mapping[str, int], picos: int) -> None:
        """Note what Redis holds since the account was opened."""
        self._held = {**takes, "micros": -(-picos // PICOS_PER_MICRO)}
        self._held_picos = picos

    def hold(self, part: Steps, steps: int) -> None:
        """Note what Redis holds for the turn from now on."""
        self._held_picos += steps * part.picos
        for metric, each in part.units.items():
            self._held[metric] = self._held.get(metric, 0) + each * steps
        self._held["micros"] = max(-(-self._held_picos // PICOS_PER_MICRO), self._held.get("micros", 0))

    async def restore(self, so_far: SoFar) -> None:
        """Put the account back into Redis, which has lost it. Raise Unavailable."""
        await self._books.script.restore(
            self._turn_id,
            self._books.gateway_id,
            self._terms.limits,
            held=self._held,
            sequence=self._answered,
            so_far=so_far,
            ttl_s=self._books.ttl_s,
        )

    async def draw(
        self, what: str, parts: Sequence[Steps], progress: Progress, *, within_s: float = 0.0
    ) -> Sequence[Taken | None]:
        """Take steps, part after part. Return None for parts that nothing limits, and for those that pass while limits
        can't be checked. Raise LimitsAway."""
        are_limited = [self._terms.count(part.units, part.picos) for part in parts]
        counted = [part for part, is_limited in zip(parts, are_limited, strict=True) if is_limited]
        if not counted:
            return [None] * len(parts)
        until_s = time.monotonic() + self._books.patience_s  # the draw before it may wait for Redis, too
        async with self._one_draw:
            self._sequence += 1
            metrics.LIMIT_DRAWS.labels(what).inc()
            back = progress.take_back()
            draw = Draw([*back, *counted], self._held_picos, self._sequence)
            drawn = await self._drawn(draw, progress, until_s, 0.0 if self.takes_waiting else within_s)
            if drawn is None:
                return [None] * len(parts)
            self._answered = draw.sequence
            # Where a part was refused, those after it were not taken either.
            taken = [*drawn, *[Taken(0)] * (len(draw.parts) - len(drawn))]
            for part, one in zip(draw.parts, taken, strict=True):
                self.hold(part, one.steps)
            answers = iter(taken[len(back) :])
            return [next(answers) if is_limited else None for is_limited in are_limited]

    async def _drawn(self, draw: Draw, progress: Progress, until_s: float, within_s: float) -> Sequence[Taken] | None:
        """Draw, however often it takes. A turn that may not go on without Redis waits for it until `until_s`, monotonic
        seconds."""
        limits = self._terms.limits
        told: SoFar | None = None
        tries = 0
        while tries < TRIES:
            if not self._books.reachable.is_set() and self._pass_without_redis(draw):
                break  # it need not wait to find out
            try:
                if told is not None or progress.has_news:
                    told = progress.so_far()
                drawn = await self._books.script.draw(self._turn_id, limits, draw, told, within_s=within_s)
                match drawn.status:
                    case "ok":
                        return drawn.taken
                    case "missing":
                        if not await self._books.rebuild(drawn.subjects):
                            quotas = [limit for limit in limits if limit.kind.is_quota]
                            return self._pass_uncounted(all(limit.passes_without_redis for limit in quotas))
                    case "unknown":
                        await self.restore(progress.so_far())
                    case "closed":  # this gateway was silent for too long
                        break
                tries += 1
            except Unavailable:
                self._books.note_away()
                if time.monotonic() >= until_s:
                    break
                if not self._pass_without_redis(draw):
                    await self._books.wait_reachable(until_s)
        return self._pass_uncounted(self._pass_without_redis(draw))

    def _pass_without_redis(self, draw: Draw) -> bool:
        """Whether all limits do that count the draw."""
        counted = {metric for part in draw.parts for metric, count in part.units.items() if count > 0}
        if any(part.picos > 0 for part in draw.parts):
            counted.add("micros")
        return all(limit.passes_without_redis for limit in self._terms.limits if limit.kind.metric in counted)

    def _pass_uncounted(self, passes: bool) -> None:
        """Raise LimitsAway where a draw that failed may not pass."""
        metrics.LIMIT_DRAW_FAILURES.inc()
        if not passes:
            raise limits_away()
