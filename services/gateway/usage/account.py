"""The account of one turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Literal

from services.common.errors import Unavailable
from services.common.limit_kinds import LimitKind
from services.gateway import metrics
from services.gateway.turn.amounts import Amounts, sound_ms, video_ms
from services.gateway.turn.ports import TurnProgress
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.usage.admission import needs_of, takes_of
from services.gateway.usage.aside import PromptAside, aside_for, prompt_steps, tokens_of
from services.gateway.usage.books import TELL_S, Books
from services.gateway.usage.draws import TRIES, Draws
from services.gateway.usage.grant import Grant, grants_of
from services.gateway.usage.limits import Limit, Window
from services.gateway.usage.operations import Opened, SoFar, Steps, Taken
from services.gateway.usage.prices import PICOS_PER_MICRO
from services.gateway.usage.record import at_first, facts_of, so_far
from services.gateway.usage.refusals import check_media, headers_of, limits_away, refusal
from services.gateway.usage.settlement import Settlement

_NOTHING = Amounts()
_NEVER = 2**63, 2**63

logger = logging.getLogger(__name__)


class TurnAccount:
    """Redis gets its calls in the order in which they are made, and none once it is closed. Where the turn is cancelled
    meanwhile, one that was sent has happened: Redis knows at the close what it had given."""

    def __init__(self, books: Books, request: TurnRequest, progress: TurnProgress) -> None:
        self._books = books
        self._request = request
        self._progress = progress
        self.turn_id = request.request_id
        began_unix_ms = round((time.time() - (time.monotonic() - request.intent.arrived_s)) * 1000)
        self._tariff = tariff = books.prices.tariff(request.model.name, began_unix_ms)
        self._facts = facts_of(request, tariff, books.gateway_id, began_unix_ms)
        self._is_free = request.intent.is_free
        self._request_picos = tariff.picos(_NOTHING, requests=0 if self._is_free else 1)
        self._takes = takes_of(request)
        self._terms = books.terms.of_turns(request.principal.subjects)
        self.limits = self._terms.limits
        # Whether Redis has the account: "no", "yes", or "maybe" while that is not known.
        self._is_open: Literal["no", "maybe", "yes"] = "no"
        # Whether others may want its place at the moment at which it ends.
        self._has_scarce_place = self._terms.have_places
        self._windows: Sequence[Window] = ()
        self._limit: Limit | None = None
        self._draws = Draws(books, self._terms, self.turn_id)
        # Of its prompt, before that is known; and the prompt, where it needs no more: the rest is to be given back.
        self._aside: PromptAside | None = None
        self._fitting: Prepared | None = None
        # Text tokens and frames that the client was sent, those of them that Redis was told, and with how many of
        # either it is told next.
        self._sent = self._told = (0, 0)
        self._tell_at = (1, 1)
        self._sent_any = False
        terms = None if self._is_free else self._terms
        self._text, self._speech = grants_of(terms, tariff, books.text_grant, books.audio_grant_ms)
        # Whether the account may still wait for others to be opened with.
        self._may_wait = not self.limits

    @property
    def limit(self) -> str:
        return self._limit.kind if self._limit is not None else ""

    @property
    def headers(self) -> Mapping[str, str]:
        return headers_of(self._windows)

    @property
    def must_tell(self) -> bool:
        """See OpenAccount."""
        (tokens, frames), (told_tokens, told_frames) = self._sent, self._told
        is_first = self._told == (0, 0) != self._sent  # from now on the prompt counts
        is_much = tokens - told_tokens >= self._text.told_every or frames - told_frames >= self._speech.told_every
        return is_first or is_much

    @property
    def has_news(self) -> bool:
        return self._sent != self._told

    def so_far(self) -> SoFar:
        """Return what Redis is told: what the turn's record says if it is lost now."""
        self._told = tokens, frames = self._sent
        if tokens or frames:
            self._tell_at = tokens + self._text.told_every, frames + self._speech.told_every
        return so_far(self._facts, self._progress, counts=bool(self.limits))

    # The turn's side: see Account in turn/ports.py.

    async def open(self) -> None:
        if self._is_open != "no":
            return
        if self._terms.limits_requests:
            self._check_media(LimitKind.MEDIA_BYTES_PER_REQUEST, self._request.intent.inline.total_bytes)
        if self.limits:
            self._is_open = "maybe"
            await self._open()
        else:
            self._is_open = "yes"
            self._books.open_unlimited(self, at_first(self._facts, counts=False))

    async def take_prompt(self, prepared: Prepared) -> None:
        if self._terms.limits_requests:
            media_ms = sound_ms(prepared.usage.audio_tokens) + video_ms(prepared.features)
            self._check_media(LimitKind.MEDIA_BYTES_PER_REQUEST, prepared.media_bytes)
            self._check_media(LimitKind.MEDIA_MS_PER_REQUEST, media_ms)
        if not self.limits or self._is_free:
            return
        first = list[Steps]()
        if (aside := self._aside) is not None:
            self._text.left += aside.text_tokens
            if tokens_of(prepared.usage) <= aside.prompt_tokens:
                self._fitting = prepared
                return
        elif self._request.thinker_renders and self._text.is_limited:
            first.append(self._text.draw())  # its answer begins now: the first draw goes in the same call
        prompt = self._beyond_aside(prepared)
        drawn, *texts = await self._draws.draw("prompt", [prompt, *first], self)
        if drawn is not None and drawn.limit is not None and not drawn.steps:
            metrics.LIMIT_REFUSALS.labels(drawn.limit.kind, drawn.limit.of).inc()
            raise refusal(drawn.limit, drawn.wait_ms)
        for taken in texts:
            self._text.left += self._text.size if taken is None else taken.steps

    def take_back(self) -> list[Steps]:
        fitting, self._fitting = self._fitting, None
        return [] if fitting is None else [self._beyond_aside(fitting)]

    def _beyond_aside(self, prepared: Prepared) -> Steps:
        """Return what the prompt needs that was not set aside: less than nothing where that was too much."""
        prompt = prompt_steps(prepared.usage, self._tariff, prepared.media_bytes)
        return prompt if self._aside is None else self._aside.rest(prompt)

    async def take_text(self, tokens: int) -> bool:
        return self._took(self._text, tokens) or await self._take(self._text, tokens)

    async def take_speech(self, frames: int) -> bool:
        return self._took(self._speech, frames) or await self._take(self._speech, frames)

    def sent(self, text_tokens: int, frames: int) -> None:
        self._sent = text_tokens, frames
        at_tokens, at_frames = self._tell_at
        if text_tokens < at_tokens and frames < at_frames:
            return
        if not self._sent_any:
            self._sent_any = True
            self._tell_at = self._text.told_every, self._speech.told_every
            self._may_wait = False
            self._books.tell_first(self.turn_id)
            self.sent(text_tokens, frames)  # it may be much at once
        else:
            self._tell_at = _NEVER  # until it is told
            self._books.tell(self.turn_id)

    def follow(self, progress: TurnProgress) -> None:
        self._progress = progress

    async def close(self, outcome: str) -> None:
        for grant in (self._text, self._speech):
            if grant.drawing is not None:
                grant.drawing.cancel()
        if self._is_open == "no":
            return
        if outcome == "ok" and self._limit is not None:
            outcome = "limit"
        if self._limit is not None:
            metrics.LIMIT_CUTS.labels(self._limit.kind, self._limit.of).inc()
        actual = so_far(self._facts, self._progress, counts=bool(self.limits), outcome=outcome, limit=self.limit)
        if actual.cost_micros:
            metrics.COST.labels(self._request.principal.label).inc(actual.cost_micros / 1e6)
        settlement = Settlement(self.turn_id, self.limits, actual, self._is_open == "yes", round(time.time() * 1000))
        await self._books.settle(settlement, has_scarce_place=self._has_scarce_place)

    def _check_media(self, kind: LimitKind, amount: int) -> None:
        check_media(self._request, self._terms.terms, kind, amount)

    # The books' side

    async def restore(self) -> None:
        """Put the account back into Redis, which has lost it. Raise Unavailable."""
        await self._draws.restore(self.so_far())

    # Opening

    async def _open(self) -> None:
        if not self._books.reachable.is_set():
            self._is_open = "no"
            return self._pass_or_raise(self.limits)
        aside = None if self._is_free else aside_for(self._request, self._tariff, self._text)
        try:
            for _ in range(TRIES):
                opened = await self._open_in_redis(aside.step if aside is not None else None)
                self._windows = opened.windows
                if opened.status == "ok":
                    self._opened()
                    self._has_scarce_place = self._has_scarce_place and not opened.leaves_places
                    if aside is not None and opened.sets_aside:
                        self._aside = aside
                        self._draws.hold(aside.step, 1)
                    return
                if opened.limit is not None:
                    self._is_open = "no"
                    if not self._is_free:  # else no client is told
                        metrics.LIMIT_REFUSALS.labels(opened.limit.kind, opened.limit.of).inc()
                    raise refusal(opened.limit, opened.wait_ms)
                if not await self._books.rebuild(opened.subjects):
                    break
        except Unavailable:
            self._books.note_away()
            return self._pass_or_raise(self.limits)
        self._pass_or_raise([limit for limit in self.limits if limit.kind.is_quota])

    async def _open_in_redis(self, aside: Steps | None) -> Opened:
        if aside is not None and not self._terms.count(aside.units, aside.picos):
            aside = None
        takes = self._takes
        needs = {**takes, **needs_of(self._request), "micros": max(1, -(-self._request_picos // PICOS_PER_MICRO))}
        return await self._books.script.open(
            self.turn_id,
            self._books.gateway_id,
            self.limits,
            needs=needs,
            takes=takes,
            picos=self._request_picos,
            so_far=at_first(self._facts, counts=True),
            ttl_s=self._books.ttl_s,
            aside=aside,
        )

    def _opened(self) -> None:
        self._is_open = "yes"
        self._draws.opened(self._takes, self._request_picos)
        self._books.open[self.turn_id] = self

    def _pass_or_raise(self, limits: Sequence[Limit]) -> None:
        """Admit the turn without a count, where all of these limits pass without Redis. Raise LimitsAway."""
        if not all(limit.passes_without_redis for limit in limits):
            raise limits_away()
        self._opened()

    # Drawing

    def _took(self, grant: Grant, count: int) -> bool:
        """Take units that are there, where nothing else is to be done."""
        left = grant.left - count
        if left < grant.low or self._may_wait:
            return False
        grant.left = left
        return True

    async def _take(self, grant: Grant, count: int) -> bool:
        if self._may_wait:
            self._may_wait = False
            self._books.hurry_open(self.turn_id)
        if grant.left < count:
            self._draws.takes_waiting += 1
            self._books.script.hurry()
            try:
                drawn = await self._fill_now(grant, count)
            finally:
                self._draws.takes_waiting -= 1
            if grant.left < count:
                self._limit = drawn.limit if drawn is not None else None
                return False
        grant.left -= count
        if grant.left < grant.low and grant.drawing is None:
            self._draw_ahead(grant)
        return True

    async def _fill_now(self, grant: Grant, count: int) -> Taken | None:
        if (drawing := grant.drawing) is not None:
            await asyncio.wait([drawing])
            drawing.result()  # raises LimitsAway
        return await self._fill(grant, count) if grant.left < count else None

    async def _fill(self, grant: Grant, count: int = 0, *, within_s: float = 0.0) -> Taken | None:
        """Draw once. Return what was drawn, as `Draws.draw` does."""
        steps = grant.draw(count)
        (drawn,) = await self._draws.draw(grant.what, [steps], self, within_s=within_s)
        grant.left += steps.most if drawn is None else drawn.steps
        if drawn is not None and drawn.limit is not None:
            grant.low = 0  # so near to a limit nothing is drawn before it is needed
        return drawn

    def _draw_ahead(self, grant: Grant) -> None:
        """Draw the next units beside the turn, together with what other turns ask for."""
        task = asyncio.create_task(self._fill(grant, within_s=TELL_S), name=f"draw {grant.what} {self.turn_id}")

        def ended(task: asyncio.Task[Taken | None]) -> None:
            grant.drawing = None
            if not task.cancelled():
                task.exception()  # the turn meets it where it needs them

        grant.drawing = task
        task.add_done_callback(ended)
