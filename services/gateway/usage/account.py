"""The account of one turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from services.common.errors import Unavailable
from services.common.limit_kinds import LimitKind
from services.gateway import metrics
from services.gateway.turn.amounts import FRAME_MS, Amounts, sound_ms, video_ms
from services.gateway.turn.ports import TurnProgress
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.books import GATHER_S, Books
from services.gateway.usage.limits import Limit
from services.gateway.usage.prices import PICOS_PER_MICRO
from services.gateway.usage.record import facts_of, so_far
from services.gateway.usage.refusals import check_media, headers_of, limits_away, refusal
from services.gateway.usage.script import Draw, Opened, SoFar, Steps, Taken, Vector, Window
from services.gateway.usage.settlement import Settlement

_TRIES = 3
_NOTHING = Amounts()
_TOKEN = Amounts(completion_text_tokens=1)
_FRAME = Amounts(completion_audio_tokens=1, audio_out_ms=FRAME_MS)

R = TypeVar("R")

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Grant:
    """Units of one kind that were drawn ahead. A draw is for `size` units, or for as many as are delivered at once."""

    what: Literal["text", "speech"]
    size: int
    units: Vector
    """Of each metric, for one."""
    picos: int
    left: int = 0

    @property
    def told_every(self) -> int:
        """After how many that were sent Redis is told: less than a draw, for more are sent while it is told."""
        return max(1, self.size * 3 // 4)

    def draw(self, count: int = 0) -> Steps:
        """Return what must be drawn for `count` to be left, and never less than is drawn at a time."""
        return Steps(self.units, self.picos, max(self.size, count - self.left), 0)


class TurnAccount:
    """Its calls of Redis run to their end, though the turn be cancelled meanwhile: none may come after the close."""

    def __init__(self, books: Books, request: TurnRequest, progress: TurnProgress) -> None:
        self._books = books
        self._request = request
        self._progress = progress
        began_unix_ms = round((time.time() - (time.monotonic() - request.intent.arrived_s)) * 1000)
        tariff = books.prices.tariff(request.model.name, began_unix_ms)
        self._tariff = tariff
        self._facts = facts_of(request, tariff, books.gateway_id, began_unix_ms)
        self._request_picos = tariff.picos(_NOTHING, requests=1)
        self._terms = books.terms.of(request.principal.subjects)
        self.limits: Sequence[Limit] = [
            limit
            for one in self._terms
            for limit in one.limits
            if limit.kind.span != "request" and limit.kind is not LimitKind.CONCURRENT_SESSIONS
        ]
        # Whether Redis has the account: "no", "yes", or "maybe" while that is not known.
        self._is_open: Literal["no", "maybe", "yes"] = "no"
        self._windows: Sequence[Window] = ()
        self._limit: Limit | None = None
        # What Redis holds for the turn, and its exact cost.
        self._held: dict[str, int] = {}
        self._held_picos = 0
        # Of the last draw that was begun, and of the last that was answered.
        self._sequence = 0
        self._answered = 0
        self._one_draw = asyncio.Lock()
        # Text tokens and frames that the client was sent, and those of them that Redis was told.
        self._sent = self._told = (0, 0)
        self._calls: set[asyncio.Task[Any]] = set()
        self._text = _Grant(
            "text",
            books.text_grant,
            {"answer_tokens": 1, "tokens": 1},
            tariff.picos(_TOKEN),
        )
        self._speech = _Grant(
            "speech",
            max(1, books.audio_grant_ms // FRAME_MS),
            {"audio_out_ms": FRAME_MS, "audio_ms": FRAME_MS, "tokens": 1},
            tariff.picos(_FRAME),
        )

    @property
    def turn_id(self) -> str:
        return self._request.request_id

    @property
    def limit(self) -> str:
        return self._limit.kind if self._limit is not None else ""

    @property
    def headers(self) -> Mapping[str, str]:
        return headers_of(self._windows)

    def so_far(self) -> SoFar:
        """Return what Redis is told: what the turn's record says if it is lost now."""
        self._told = self._sent
        progress = self._progress
        return so_far(self._facts, progress.amounts(), counts=bool(self.limits), attempts=progress.attempts)

    # The turn's side: see Account in turn/ports.py.

    async def open(self) -> None:
        if self._is_open != "no":
            return
        request = self._request
        check_media(request, self._terms, LimitKind.MEDIA_BYTES_PER_REQUEST, request.intent.inline.total_bytes)
        self._is_open = "maybe"
        if self.limits:
            await self._run(self._open())
        elif self._books.reachable.is_set():
            self._start(self._open_unlimited())  # the turn does not wait for it
        else:
            self._opened()

    async def take_prompt(self, prepared: Prepared) -> None:
        request, usage = self._request, prepared.usage
        audio_ms = sound_ms(usage.audio_tokens)
        check_media(request, self._terms, LimitKind.MEDIA_BYTES_PER_REQUEST, prepared.media_bytes)
        check_media(request, self._terms, LimitKind.MEDIA_MS_PER_REQUEST, audio_ms + video_ms(prepared.features))
        prompt = Amounts(
            prompt_text_tokens=usage.text_tokens,
            prompt_audio_tokens=usage.audio_tokens,
            prompt_image_tokens=usage.image_tokens,
            prompt_video_tokens=usage.video_tokens,
            audio_in_ms=audio_ms,
            media_bytes=prepared.media_bytes,
        )
        units = {
            "prompt_tokens": prompt.prompt_tokens,
            "tokens": prompt.prompt_tokens,
            "audio_in_ms": audio_ms,
            "audio_ms": audio_ms,
        }
        if not self.limits:
            if self._is_open == "maybe":
                self._books.script.hurry()  # the answer may be delivered any moment
            return
        parts = [Steps(units, self._tariff.picos(prompt), 1, 1)]
        if self._request.thinker_renders:  # its answer begins now, so that its first draw goes in the same call
            parts.append(self._text.draw())
        drawn, *first = await self._draw("prompt", parts)
        if drawn is not None and drawn.limit is not None and not drawn.steps:
            metrics.LIMIT_REFUSALS.labels(drawn.limit.kind, drawn.limit.of).inc()
            raise refusal(drawn.limit, drawn.wait_ms)
        for taken in first:
            self._text.left += self._text.size if taken is None else taken.steps

    async def take_text(self, tokens: int) -> bool:
        return await self._take(self._text, tokens)

    async def take_speech(self, frames: int) -> bool:
        return await self._take(self._speech, frames)

    def sent(self, text_tokens: int, frames: int) -> None:
        self._sent = text_tokens, frames
        told_tokens, told_frames = self._told
        is_first = self._told == (0, 0) and self._sent != (0, 0)  # from now on the prompt counts
        is_much = text_tokens - told_tokens >= self._text.told_every or frames - told_frames >= self._speech.told_every
        if (is_first or is_much) and self._is_open != "no":
            self._books.tell(self.turn_id)

    def follow(self, progress: TurnProgress) -> None:
        self._progress = progress

    async def close(self, outcome: str) -> None:
        if self._calls:
            await asyncio.wait(self._calls)
        if self._is_open == "no":
            return
        if outcome == "ok" and self._limit is not None:
            outcome = "limit"
        if self._limit is not None:
            metrics.LIMIT_CUTS.labels(self._limit.kind, self._limit.of).inc()
        progress = self._progress
        actual = so_far(
            self._facts,
            progress.amounts(),
            counts=bool(self.limits),
            attempts=progress.attempts,
            outcome=outcome,
            limit=self.limit,
        )
        await self._books.settle(
            Settlement(self.turn_id, self.limits, actual, self._is_open == "yes", round(time.time() * 1000))
        )

    # The books' side

    async def restore(self) -> None:
        """Put the account back into Redis, which has lost it. Raise Unavailable."""
        await self._books.script.restore(
            self.turn_id,
            self._books.gateway_id,
            self.limits,
            held=self._held,
            sequence=self._answered,
            so_far=self.so_far(),
            ttl_s=self._books.ttl_s,
        )

    # Opening

    async def _open(self) -> None:
        if not self._books.reachable.is_set():
            self._is_open = "no"
            return self._pass_or_raise(self.limits)
        try:
            for _ in range(_TRIES):
                opened = await self._open_in_redis()
                self._windows = opened.windows
                if opened.status == "ok":
                    return self._opened()
                if opened.limit is not None:
                    self._is_open = "no"
                    metrics.LIMIT_REFUSALS.labels(opened.limit.kind, opened.limit.of).inc()
                    raise refusal(opened.limit, opened.wait_ms)
                if not await self._books.rebuild(opened.subjects):
                    break
        except Unavailable:
            self._books.note_away()
            return self._pass_or_raise(self.limits)
        return self._pass_or_raise([limit for limit in self.limits if limit.kind.is_quota])

    async def _open_unlimited(self) -> None:
        """Open an account that nothing limits. Where Redis is away, the account is put there later."""
        try:
            await self._open_in_redis()
        except Unavailable:
            self._books.note_away()
        self._opened()

    async def _open_in_redis(self) -> Opened:
        needs, takes = self._asked()
        return await self._books.script.open(
            self.turn_id,
            self._books.gateway_id,
            self.limits,
            needs=needs,
            takes=takes,
            picos=self._request_picos,
            so_far=self.so_far(),
            ttl_s=self._books.ttl_s,
            within_s=0.0 if self.limits else GATHER_S,
        )

    def _opened(self) -> None:
        self._is_open = "yes"
        self._held = {**self._asked()[1], "micros": -(-self._request_picos // PICOS_PER_MICRO)}
        self._held_picos = self._request_picos
        self._books.open[self.turn_id] = self

    def _asked(self) -> tuple[dict[str, int], dict[str, int]]:
        """Return what must be left of the limits, and what is taken of them, for the turn to be admitted."""
        takes = {"requests": 1, "open_requests": 1}
        needs = {"prompt_tokens": 1, "tokens": 1}
        if not self._request.intent.said:  # no text is generated for it
            needs["answer_tokens"] = 1
        if self._request.speaks:
            takes["open_voices"] = 1
            needs |= {"audio_out_ms": FRAME_MS, "audio_ms": FRAME_MS}
        return {**takes, **needs, "micros": max(1, -(-self._request_picos // PICOS_PER_MICRO))}, takes

    def _pass_or_raise(self, limits: Sequence[Limit]) -> None:
        """Admit the turn without a count, where all of these limits pass without Redis. Raise LimitsAway."""
        if not all(limit.passes_without_redis for limit in limits):
            raise limits_away()
        self._opened()

    # Drawing

    async def _take(self, grant: _Grant, count: int) -> bool:
        if grant.left < count:
            steps = grant.draw(count)
            (drawn,) = await self._draw(grant.what, [steps])
            grant.left += steps.most if drawn is None else drawn.steps
            if grant.left < count:
                self._limit = drawn.limit if drawn is not None else None
                return False
        grant.left -= count
        return True

    def _limits_on(self, steps: Steps) -> list[Limit]:
        """Return the limits that count these steps."""
        return [
            limit
            for limit in self.limits
            if steps.units.get(limit.kind.metric) or (limit.kind.metric == "micros" and steps.picos)
        ]

    async def _draw(self, what: str, parts: Sequence[Steps]) -> Sequence[Taken | None]:
        """Take steps, part after part. Return None for parts that nothing limits, and for those that pass while limits
        can't be checked."""
        limits = [self._limits_on(part) for part in parts]
        counted = [part for part, some in zip(parts, limits, strict=True) if some]
        if not counted:
            return [None] * len(parts)
        async with self._one_draw:
            self._sequence += 1
            metrics.LIMIT_DRAWS.labels(what).inc()
            draw = Draw(counted, self._held_picos, self._sequence)
            drawn = await self._run(self._drawn(draw, [limit for some in limits for limit in some]))
            if drawn is None:
                return [None] * len(parts)
            self._answered = draw.sequence
            # Where a part was refused, those after it were not taken either.
            taken = [*drawn, *[Taken(0)] * (len(counted) - len(drawn))]
            for part, one in zip(counted, taken, strict=True):
                self._held_picos += one.steps * part.picos
                for metric, each in part.units.items():
                    self._held[metric] = self._held.get(metric, 0) + each * one.steps
            self._held["micros"] = max(-(-self._held_picos // PICOS_PER_MICRO), self._held.get("micros", 0))
            answers = iter(taken)
            return [next(answers) if some else None for some in limits]

    async def _drawn(self, draw: Draw, limits: Sequence[Limit]) -> Sequence[Taken] | None:
        """Draw, however often it takes. A turn that may not go on without Redis waits for it for a while."""
        until_s = time.monotonic() + self._books.patience_s
        tries = 0
        while tries < _TRIES:
            if not self._books.reachable.is_set() and all(limit.passes_without_redis for limit in limits):
                break  # it need not wait to find out
            try:
                drawn = await self._books.script.draw(self.turn_id, self.limits, draw, self.so_far())
                match drawn.status:
                    case "ok":
                        return drawn.taken
                    case "missing":
                        if not await self._books.rebuild(drawn.subjects):
                            limits = [limit for limit in self.limits if limit.kind.is_quota]
                            break
                    case "unknown":
                        await self.restore()
                    case "closed":  # this gateway was silent for too long
                        break
                tries += 1
            except Unavailable:
                self._books.note_away()
                if time.monotonic() >= until_s:
                    break
                if not all(limit.passes_without_redis for limit in limits):
                    await self._books.wait_reachable(until_s)
        metrics.LIMIT_DRAW_FAILURES.inc()
        if all(limit.passes_without_redis for limit in limits):
            return None
        raise limits_away()

    # Calls

    async def _run(self, work: Coroutine[Any, Any, R]) -> R:
        return await asyncio.shield(self._start(work))

    def _start(self, work: Coroutine[Any, Any, R]) -> asyncio.Task[R]:
        task = asyncio.create_task(work, name=f"account {self.turn_id}")
        self._calls.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # where its waiter has left
