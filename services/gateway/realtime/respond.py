"""Runs a response: one turn, its text as it is made, its audio at most a lead ahead of real time."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from services.common.errors import INTERNAL, AntiphonError, ContextTooLong, Fault, root_cause
from services.gateway import metrics
from services.gateway.realtime.conversation import Item, ItemStatus, SpeechContent, TextContent
from services.gateway.realtime.events import Emit, ResponseDone
from services.gateway.realtime.output import ResponseOutput
from services.gateway.realtime.pacing import Lead, Pacing, pieces_of
from services.gateway.realtime.places import Places
from services.gateway.realtime.response import CancelledBy, Response, ResponseStatus
from services.gateway.realtime.spoken import Spoken
from services.gateway.turn.admission import Admission
from services.gateway.turn.events import FinishReason, Speech, SpeechEnd, Text, TurnDone, TurnStarted, Usage
from services.gateway.turn.intent import Intent, Principal
from services.gateway.turn.playback import PlaybackClock, SpeechMeter
from services.gateway.turn.turn import Turn

# Packets of speech that may wait for their time: at most 40 s.
_WAITING_PACKETS = 64

logger = logging.getLogger(__name__)


class RunningResponse:
    """`emit` does not fail."""

    def __init__(
        self,
        response: Response,
        emit: Emit,
        places: Places,
        lead_s: float,
        token_s: float,
        *,
        is_held: bool = False,
    ) -> None:
        """`token_s`: how long a token of text takes to say. `is_held`: work, but say nothing until `release`."""
        self.response = response
        self._emit = emit
        self._places = places
        self._pacing = Pacing(lead_s)
        self._token_s = token_s
        self._work: asyncio.Task[None] | None = None
        self._output: ResponseOutput | None = None
        self._turn: Turn | None = None
        self._is_cancelled = False
        self._over = asyncio.Event()
        self._is_cut = False
        self._released = asyncio.Event()
        if not is_held:
            self._released.set()
        # Of a response that speaks, once the model has begun.
        self._spoken: Spoken | None = None
        self._clock: PlaybackClock | None = None
        self._sent_samples = 0

    @property
    def usage(self) -> Usage | None:
        """What it has used so far; None = nothing is known."""
        return self._turn.usage if self._turn is not None else self.response.usage

    # Held back

    @property
    def is_held(self) -> bool:
        return not self._released.is_set()

    @property
    def has_failed(self) -> bool:
        """Whether a response that is held back will fail."""
        return self._work is not None and self._work.done()

    def discard(self) -> None:
        """Have what is held back cost the client nothing. Cancel `run` next."""
        if self._turn is not None:
            self._turn.discard()

    def release(self) -> None:
        """Send the events, those of until now first."""
        self._released.set()

    # What the listener hears

    def unheard_s(self) -> float:
        """Return how many seconds of what was sent a client that plays as it receives has still to play. Of an answer
        that was truncated it plays no more."""
        if self._clock is None or self._spoken is None or self._spoken.samples < self._sent_samples:
            return 0.0
        return self._clock.ahead_s(time.monotonic())

    @property
    def is_heard(self) -> bool:
        """Whether the listener hears it now: its speech has begun, and is not over."""
        if self._spoken is None or not self._spoken.samples:
            return False
        return self._is_under_way

    @property
    def _is_under_way(self) -> bool:
        """Whether it is made, or what was sent of it is played yet."""
        return not self._over.is_set() or self.unheard_s() > 0

    def keep(self, lead: Lead) -> None:
        self._pacing.keep(lead)

    def stand_still(self, until_s: float) -> None:
        """Note that a client that plays as it receives plays nothing from now until then, of the monotonic clock."""
        if self._clock is not None:
            self._clock.stand_still(time.monotonic(), until_s)

    def note_interrupted(self) -> None:
        """Have the conversation keep what was heard until now."""
        if self._spoken is not None and self._is_under_way:
            self._spoken.interrupt(self.unheard_s())

    def as_heard(self, item: Item) -> Item:
        """Return one of its messages as far as the listener has heard it, or has read it where it is text. A call, and
        what has been heard to its end, is returned as it is. The item itself does not change."""
        match item.contents:
            case [SpeechContent(spoken)] if self._is_under_way:
                text = spoken.text_before(self.unheard_s())
            case [TextContent(text)] if self._is_under_way:
                pass
            case _:
                return item
        return replace(item, contents=[TextContent(text)], status=ItemStatus.INCOMPLETE)

    async def run(
        self, admission: Admission, principal: Principal, intent: Intent, shorter: Callable[[], Intent | None]
    ) -> None:
        """Run to the last event, also of a response that fails or is cancelled. Cancelling this itself ends it without
        a word. `shorter` returns what to ask instead of what was too long; None = nothing."""
        try:
            self._work = asyncio.create_task(
                self._answer_in_context(admission, principal, intent, shorter), name=self.response.id
            )
            if self._is_cancelled:
                self._work.cancel()
            try:
                await asyncio.wait((self._work,))
            finally:
                self._work.cancel()
                await asyncio.gather(self._work, return_exceptions=True)
            await self._released.wait()
            self._settle(self._work)
            if self._output is not None:
                await self._output.close(whole=self.response.status is ResponseStatus.COMPLETED)
            await self._emit(ResponseDone(self.response))
        finally:
            self._over.set()

    def stop(self, by: CancelledBy) -> None:
        """Stop the turn. No more speech is sent."""
        self._is_cancelled = True
        self.response.cancelled_by = by
        if self._work is not None:
            self._work.cancel()

    async def wait_over(self) -> None:
        """Return once the last event was sent."""
        await self._over.wait()

    async def _answer_in_context(
        self, admission: Admission, principal: Principal, intent: Intent, shorter: Callable[[], Intent | None]
    ) -> None:
        while True:
            try:
                return await self._answer(admission, principal, intent)
            except (ContextTooLong, ExceptionGroup) as error:
                known = root_cause(error) if isinstance(error, ExceptionGroup) else error
                fewer = shorter() if isinstance(known, ContextTooLong) and not self.response.items else None
                if fewer is None:
                    raise
                intent = fewer

    async def _answer(self, admission: Admission, principal: Principal, intent: Intent) -> None:
        packets: asyncio.Queue[Speech | None] = asyncio.Queue(_WAITING_PACKETS)
        options = self.response.options
        async with admission.admit(principal, intent) as turn:
            self._turn = turn
            spoken = Spoken(turn.model.sample_rate, options.speech.voice, self._token_s)
            if options.speaks:
                self._spoken, self._clock = spoken, PlaybackClock(spoken.sample_rate)
            names = options.tools.form.tool_names
            output = ResponseOutput(self.response, self._emit, self._places, names, self._spoken)
            self._output = output
            try:
                async with asyncio.TaskGroup() as tasks:
                    play = self._play(turn, packets, spoken, output)
                    tasks.create_task(play, name=f"play {self.response.id}")
                    await self._read(turn, packets, output)
                    await packets.put(None)
                turn.sent_all()
            finally:
                self.response.usage = turn.usage
                self._turn = None
        spoken.is_whole = True

    async def _read(self, turn: Turn, packets: asyncio.Queue[Speech | None], output: ResponseOutput) -> None:
        """Send the text, and hand the speech on. What waits for its time must not keep a thinker's slot."""
        async for event in turn.events:
            match event:
                case TurnStarted():
                    await self._released.wait()
                    await output.begin()
                case Text():
                    await output.add(event)
                    turn.sent((event,))
                case Speech():
                    if event.pcm:
                        await output.begin_speech()
                    await packets.put(event)
                case TurnDone():
                    self._note_end(event)
                case _:
                    pass
        await output.end_text()

    def _note_end(self, done: TurnDone) -> None:
        self.response.limit, self.response.derailment = done.limit, done.derailment
        self.response.spoken_again = done.spoken_again
        self._is_cut = done.finish_reason is FinishReason.LENGTH or done.speech_end is SpeechEnd.LENGTH

    async def _play(
        self, turn: Turn, packets: asyncio.Queue[Speech | None], spoken: Spoken, output: ResponseOutput
    ) -> None:
        clock, meter = self._clock or PlaybackClock(spoken.sample_rate), SpeechMeter(spoken.sample_rate)
        while (packet := await packets.get()) is not None:
            if not packet.pcm:
                turn.sent((packet,))
                continue
            for piece in pieces_of(packet, spoken.sample_rate):
                due_s = await self._pacing.wait(clock)
                await output.speak(piece.pcm)
                metrics.REALTIME_LATENESS.observe(time.monotonic() - due_s)
                turn.sent((piece,))
                spoken.add_speech(piece)
                self._sent_samples = spoken.samples
                meter.note(piece, was_held=self._pacing.was_held)
                clock.deliver(len(piece.pcm) // 2, time.monotonic())

    def _settle(self, work: asyncio.Task[None]) -> None:
        response = self.response
        if work.cancelled():
            response.status = ResponseStatus.CANCELLED
        elif (error := work.exception()) is not None:
            response.status, response.error = ResponseStatus.FAILED, _known(error, response.id)
        else:
            response.status = ResponseStatus.INCOMPLETE if self._is_cut else ResponseStatus.COMPLETED


def _known(error: BaseException, name: str) -> AntiphonError:
    known = root_cause(error) if isinstance(error, ExceptionGroup) else error
    if not isinstance(known, AntiphonError):
        logger.error("response %s failed", name, exc_info=error)
        return Fault(INTERNAL)
    return known
