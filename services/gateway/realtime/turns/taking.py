"""Takes turns in a session by the voice: what was said becomes an item, and the model responds.

audio ─▶ SpeechPool ─▶ Endpointer ─▶ started: what is heard of an answer stops
          (processes)                paused:  a response is begun and held back
                                     resumed: it is thrown away
                                     stopped: the turn is an item, and the response speaks
                  a brief sound over an answer: the answer is held until it is decided whether it begins a turn

Where the client asks for it, the model judges at each pause whether the user has finished. What it says is read with
the next hop, and makes the silence that ends the turn shorter or longer. So does it judge whether a brief sound is
meant to interrupt.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from services.gateway import metrics
from services.gateway.realtime.conversation import SAMPLE_RATE, Item, new_id
from services.gateway.realtime.events import SilenceTimedOut, SpeechStarted, SpeechStopped
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.respond import RunningResponse
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.turns import endpointer
from services.gateway.realtime.turns.endpointer import (
    HOP_BYTES,
    HOP_MS,
    HOP_SAMPLES,
    MIN_SPEECH_MS,
    BriefSound,
    Endpointer,
    interrupting_ms,
)
from services.gateway.realtime.turns.floor import Floor
from services.gateway.realtime.turns.options import TurnDetection, TurnLimits
from services.gateway.realtime.turns.speech_pool import SpeechPool

# A piece that is heard at once, about a second: what other sessions may have to wait for.
_PIECE_BYTES = 32 * HOP_BYTES
# Silence after which the end of a turn is judged, after a word or two and after more, and how often in one turn.
_WORD_JUDGED_AFTER_MS = 4 * HOP_MS
_JUDGED_AFTER_MS = 200
_MOST_JUDGEMENTS = 8
# So long after a brief sound it is decided, whether the model has said something or not.
_DECIDED_AFTER_MS = 600

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Undecided:
    """A brief sound over an answer that is held, and the hop at which it is forgotten."""

    sound: BriefSound
    until: int
    judging: asyncio.Task[bool | None]


class TurnTaking:
    """Follows the audio of one session from now on. Positions are samples of all its audio."""

    def __init__(self, options: TurnDetection, limits: TurnLimits, pool: SpeechPool, floor: Floor) -> None:
        self.options = options
        self._limits = limits
        self._floor = floor
        self._hearing = pool.hearing()
        self._endpointer = Endpointer(options, *self._pauses_ms(options))
        # Where the first hop begins.
        self._origin = floor.buffer.end
        # Of the turn that is spoken now: its item, and where it begins.
        self._item_id = ""
        self._start = 0
        # How far the answer may be ahead, for the user may interrupt it.
        self._lead = Lead.FULL
        self._undecided: _Undecided | None = None
        # The item, its end and the response to it that are held back.
        self._eager: tuple[Item, int, RunningResponse] | None = None
        self._eager_tries = 0
        # Whether the user has finished, of the pause that is heard now.
        self._judging: asyncio.Task[bool | None] | None = None
        self._judgements = 0
        # All that is asked, also what is cancelled and not over.
        self._asking: set[asyncio.Task[bool | None]] = set()
        self.is_ending = False
        """Whether a turn is over that is not in the conversation yet, or its answer has not begun."""
        # After an answer was played: the wait for the user, and where it began.
        self._waiting: asyncio.Task[None] | None = None
        self._wait_is_over = False

    @property
    def is_speaking(self) -> bool:
        return self._endpointer.is_speaking

    @property
    def turn_start(self) -> int | None:
        """The first sample of the turn that is spoken now."""
        return self._start if self.is_speaking else None

    async def hear(self, pcm: bytes | bytearray) -> None:
        """Append samples to the buffer, and do what they bring. Raise TooLarge where an item can't hold them."""
        for at in range(0, len(pcm), _PIECE_BYTES):
            piece = memoryview(pcm)[at : at + _PIECE_BYTES]
            buffer = self._floor.buffer
            if self.is_speaking and not buffer.has_room(len(piece)):
                await self._end_turn(buffer.end, "full")
            self._trim()
            buffer.check(piece)
            buffer.append(piece)
            for probability in await self._hearing.hear(piece):
                await self._note(probability)
            self._trim()

    async def forget(self) -> str | None:
        """Forget what is spoken now, for the buffer is cleared or committed by the client. Return the id that its item
        was to have."""
        item_id = self._item_id if self.is_speaking else None
        self._throw_away()
        self._endpointer.reset()
        self._stop_waiting()
        await self._keep(Lead.FULL)
        return item_id

    async def finish(self) -> None:
        """End the turn that is spoken now, as silence would. The caller lets nothing more be heard."""
        if self.is_speaking:
            await self._end_turn(self._floor.buffer.end, "finished")
        self._forget_sound("unknown")
        self._stop_waiting()
        await self._keep(Lead.FULL)

    def change(self, options: TurnDetection) -> None:
        """Take turns with other options from now on."""
        self.options = options
        self._endpointer.change(options, *self._pauses_ms(options))
        if options.idle_timeout_ms is None:
            self._stop_waiting()

    async def close(self) -> None:
        """End what runs."""
        self._throw_away()
        await asyncio.gather(*self._asking, return_exceptions=True)
        if self._waiting is not None:
            self._waiting.cancel()
            await asyncio.gather(self._waiting, return_exceptions=True)

    def _pauses_ms(self, options: TurnDetection) -> tuple[int, int]:
        """Return the silence of a pause, and that after a word or two: it is judged at once, as the judgement must be
        there when it may end the turn."""
        eager_ms = self._eager_ms(options)
        if options.eagerness is None:
            return eager_ms, eager_ms
        pause_ms = min(eager_ms or _JUDGED_AFTER_MS, _JUDGED_AFTER_MS)
        return pause_ms, min(pause_ms, _WORD_JUDGED_AFTER_MS)

    def _eager_ms(self, options: TurnDetection) -> int:
        return self._limits.eager_silence_ms if options.create_response and self._limits.eager_tries else 0

    # Speech

    async def _note(self, probability: float) -> None:
        gated = self.options.interrupt_response and self._floor.is_heard
        brief_ms = interrupting_ms(self._limits.interrupt_speech_ms)
        enough_ms = max(brief_ms, interrupting_ms(self._limits.back_channel_ms))
        change = self._endpointer.feed(probability, enough_ms if gated else MIN_SPEECH_MS, brief_ms)
        if gated and self._endpointer.sound_ms >= brief_ms:
            await self._keep(Lead.NONE)
        match change:
            case endpointer.SpeechStarted(hop):
                await self._begin_turn(hop)
            case BriefSound():
                self._weigh(change)
            case endpointer.SpeechPaused(hop):
                await self._pause(self._at(hop))
            case endpointer.SpeechResumed():
                self._throw_away()
            case endpointer.SpeechStopped(hop):
                await self._end_turn(self._at(hop), "silence")
            case None:
                pass
        await self._decide(is_over=not gated)
        if self._undecided is None and self._endpointer.sound_ms < brief_ms:
            await self._keep(Lead.CLOSE if gated and self._endpointer.may_become_speech else Lead.FULL)
        if self.options.eagerness is not None and (silent_ms := self._endpointer.silent_ms):
            judging = self._judging
            finished = judging.result() if judging is not None and judging.done() else None
            if finished is False:
                self._discard_eager()  # the wait is long, and others may need its workers
            if silent_ms >= self.options.silence_ms(finished):
                end = self._at(self._endpointer.hops)
                await self._end_turn(end, "judged" if finished else "silence")

    async def _keep(self, lead: Lead) -> None:
        if lead is not self._lead:
            self._lead = lead
            await self._floor.keep(lead)

    async def _begin_turn(self, hop: int) -> None:
        self._stop_waiting()
        if (before := self._undecided) is not None:  # it was the beginning of this
            hop = before.sound.hop
            self._forget_sound("followed")
        onset = self._at(hop)
        self._item_id, self._eager_tries, self._judgements = new_id("item"), 0, 0
        self._start = max(onset - _samples(self.options.prefix_padding_ms), self._floor.buffer.start)
        began_s = time.monotonic()
        stopped = self._floor.interrupt() if self.options.interrupt_response else None
        await self._floor.emit(SpeechStarted(self._item_id, _ms(self._start)))
        if stopped is not None:
            await stopped.wait_over()
            metrics.REALTIME_INTERRUPT.observe(time.monotonic() - began_s)

    async def _end_turn(self, end: int, why: str) -> None:
        self.is_ending = True
        try:
            await self._hand_over(end, why)
        finally:
            self.is_ending = False

    async def _hand_over(self, end: int, why: str) -> None:
        """Add the turn that ends here to the conversation, and have its answer begin."""
        self._stop_judging()
        eager, self._eager = self._eager, None
        if eager is not None and not self._floor.is_current(eager[2]):
            self._discard(eager[2])
            eager = None
        if eager is not None:
            item, end, _ = eager
        else:
            item = Item("user", self._floor.buffer.cut(self._start, end), id=self._item_id)
        self._endpointer.reset()
        self._floor.buffer.take(end)
        metrics.REALTIME_TURNS.labels(why).inc()
        await self._floor.emit(SpeechStopped(item.id, _ms(end)))
        is_added = await self._floor.add_turn(item)
        if eager is not None and is_added:
            metrics.REALTIME_EAGER.labels("used").inc()
            await self._floor.give_answer(eager[2])
        elif eager is not None:
            self._discard(eager[2])
        elif is_added and self.options.create_response:
            await self._floor.answer()

    # Brief sounds over an answer

    def _weigh(self, sound: BriefSound) -> None:
        """Have it judged whether a sound is meant to interrupt the answer."""
        self._forget_sound("unknown")
        buffer = self._floor.buffer
        start = max(self._at(sound.hop) - _samples(self.options.prefix_padding_ms), buffer.start)
        item = Item("user", buffer.cut(start, self._at(sound.end)))
        judging = self._ask(self._floor.is_meant(item), "judge a sound over an answer")
        self._undecided = _Undecided(sound, self._endpointer.hops + _DECIDED_AFTER_MS // HOP_MS, judging)

    async def _decide(self, *, is_over: bool) -> None:
        """Make a turn of the last brief sound where it is meant, or `is_over`: the answer was over before that was
        known, and whoever speaks then interrupts nothing."""
        if (undecided := self._undecided) is None:
            return
        judging = undecided.judging
        is_meant = judging.result() if judging.done() else None
        if is_meant or is_over:
            self._forget_sound("meant" if is_meant else "late")
            self._endpointer.begin(undecided.sound)
            await self._begin_turn(undecided.sound.hop)
        elif is_meant is False:
            self._forget_sound("unmeant")
        elif judging.done() or (self._endpointer.hops >= undecided.until and not self._endpointer.sound_ms):
            self._forget_sound("unknown")  # unless it may be the beginning of what is heard now

    def _forget_sound(self, outcome: str) -> None:
        if self._undecided is not None:
            metrics.REALTIME_BRIEF_SOUNDS.labels(outcome).inc()
            self._undecided.judging.cancel()
            self._undecided = None

    # Work ahead of the turn's end

    async def _pause(self, end: int) -> None:
        """Use a pause: have it judged, and work ahead."""
        works_ahead = self._eager_ms(self.options) and self._eager_tries < self._limits.eager_tries
        judges = self.options.eagerness is not None and self._judgements < _MOST_JUDGEMENTS
        if not (works_ahead or judges):
            return
        item = Item("user", self._floor.buffer.cut(self._start, end), id=self._item_id)
        if judges:
            self._judgements += 1
            self._judging = self._ask(self._judge(item), "judge a turn's end")
        if works_ahead and not self._floor.is_answering:
            self._eager_tries += 1
            running = await self._floor.prepare_answer(item)
            if running is not None:
                self._eager = item, end, running

    def _ask(self, question: Coroutine[Any, Any, bool | None], name: str) -> asyncio.Task[bool | None]:
        task = asyncio.create_task(question, name=name)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)
        return task

    async def _judge(self, item: Item) -> bool | None:
        finished = await self._floor.is_finished(item)
        verdict = {True: "finished", False: "unfinished", None: "unknown"}[finished]
        metrics.REALTIME_JUDGEMENTS.labels(verdict).inc()
        return finished

    def _stop_judging(self) -> None:
        if self._judging is not None:
            self._judging.cancel()
            self._judging = None

    def _throw_away(self) -> None:
        self._stop_judging()
        self._forget_sound("unknown")
        self._discard_eager()

    def _discard_eager(self) -> None:
        if self._eager is not None:
            self._discard(self._eager[2])
            self._eager = None

    def _discard(self, running: RunningResponse) -> None:
        metrics.REALTIME_EAGER.labels("thrown_away").inc()
        self._floor.discard_answer(running)

    # Silence

    def wait_for_user(self, until_played_s: float) -> None:
        """Begin the wait for the user, after an answer that plays for so long yet."""
        self._stop_waiting()
        if self.options.idle_timeout_ms is not None and not self.is_speaking:
            wait = self._wait(until_played_s, self.options.idle_timeout_ms / 1000)
            self._wait_is_over = False
            self._waiting = asyncio.create_task(wait, name="wait for the user")
            self._waiting.add_done_callback(self._waited)

    async def _wait(self, until_played_s: float, timeout_s: float) -> None:
        await asyncio.sleep(until_played_s)
        buffer = self._floor.buffer
        start = buffer.end
        await asyncio.sleep(timeout_s)
        self._wait_is_over = True
        if self.is_speaking or self._floor.is_answering:
            return
        end = buffer.end
        start = max(start, buffer.start)
        item = Item("user", buffer.cut(start, end))
        self._endpointer.reset()
        buffer.take(end)
        metrics.REALTIME_TURNS.labels("timeout").inc()
        await self._floor.emit(SilenceTimedOut(item.id, _ms(start), _ms(end)))
        if await self._floor.add_turn(item) and not self.is_speaking:
            await self._floor.answer()

    def _stop_waiting(self) -> None:
        """What has begun at the wait's end is not stopped half-way."""
        if self._waiting is not None and not self._wait_is_over:
            self._waiting.cancel()

    def _waited(self, task: asyncio.Task[None]) -> None:
        if task is self._waiting:
            self._waiting = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("a session failed", exc_info=error)
            self._floor.end(SessionEnd.FAULT)

    def _at(self, hop: int) -> int:
        """Return the first sample of a hop."""
        return self._origin + hop * HOP_SAMPLES

    def _trim(self) -> None:
        """Forget what belongs to no turn: while nobody speaks, all but what may be needed yet."""
        if self.is_speaking:
            return
        buffer, onset = self._floor.buffer, self._endpointer.onset
        if self._undecided is not None:
            onset = self._undecided.sound.hop
        # The hop that is not whole yet is part of what follows.
        keep_from = self._at(self._endpointer.hops if onset is None else onset)
        padding_ms = max(self.options.prefix_padding_ms, self.options.idle_timeout_ms or 0)
        buffer.drop(keep_from - _samples(padding_ms))


def _samples(ms: int) -> int:
    return ms * SAMPLE_RATE // 1000


def _ms(samples: int) -> int:
    return samples * 1000 // SAMPLE_RATE
