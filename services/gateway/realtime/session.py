"""A session: a conversation, the audio that is not committed yet, and the responses that run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from itertools import chain

from services.common.errors import AntiphonError, BadInput, Unauthenticated
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import (
    AnswerHeld,
    AudioCleared,
    AudioCommitted,
    Emit,
    ItemAdded,
    Refused,
    ResponseCreated,
)
from services.gateway.realtime.input_buffer import InputBuffer, Uncommitted, check_samples
from services.gateway.realtime.input_frames import frame_of
from services.gateway.realtime.kept.sessions import KeptSession
from services.gateway.realtime.leaving import Leaving
from services.gateway.realtime.memory import SessionMemory
from services.gateway.realtime.owed_answer import OwedAnswer
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.prefill import Prefill
from services.gateway.realtime.respond import RunningResponse
from services.gateway.realtime.response import CancelledBy, ResponseOptions, ResponseStatus
from services.gateway.realtime.responses import Responses
from services.gateway.realtime.session_end import SessionEnd, end_of_key
from services.gateway.realtime.session_items import SessionItems
from services.gateway.realtime.transcribe import Transcriber
from services.gateway.realtime.turns.judgement import Judge
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.realtime.turns.speech_pool import SpeechPool
from services.gateway.realtime.turns.taking import TurnTaking
from services.gateway.turn.admission import Admission
from services.gateway.turn.events import Usage
from services.gateway.turn.intent import FieldNames, Intent, Principal
from services.gateway.turn.model import Model

_LAST_WORDS_S = 0.5
"""How long the responses of a revoked key have to tell their client why they end."""


class Session:
    """Its methods are what a client may do. They send events through `emit`, which does not fail, and raise an
    AntiphonError where they did nothing.

    Call one after another. Responses run beside them. `names` is what the client calls the fields of a response.
    Where turns are detected, `append_audio` also does what the user's voice brings: see turns/.
    """

    def __init__(
        self,
        session_id: str,
        admission: Admission,
        principal: Principal,
        model: Model,
        memory: SessionMemory,
        limits: RealtimeLimits,
        names: FieldNames,
        emit: Emit,
        pool: SpeechPool,
        turn_detection: TurnDetection | None,
        kept: KeptSession | None = None,
    ) -> None:
        """`kept`: the one that this goes on with. Its items come with `restore`."""
        self.id = session_id
        self.model = model
        self.limits = limits
        self.options = ResponseOptions(speaks=model.speaks)
        self.items = SessionItems(memory, emit, self._other_bytes)
        self.conversation = self.items.conversation
        self.ended: asyncio.Future[SessionEnd] = asyncio.get_running_loop().create_future()
        self.expires_unix_s = int(time.time() + limits.max_session_s) if kept is None else kept.expires_unix_s
        self.settings = kept.settings if kept is not None else ""
        """What its dialect makes its options of. The dialect writes it."""
        self.principal = principal
        self.asking = Asking(admission, principal, model, names, self.id)
        self._judge = Judge(self.asking, memory, limits.turns.judgements_per_minute)
        self._prefill = Prefill(admission, principal, memory, is_on=limits.reads_ahead)
        self.leaving = Leaving(self._is_busy, lambda: self._taking is not None and self._taking.is_speaking, self.end)
        self._transcriber = Transcriber(self.asking, emit, self._count, self._not_transcribed, self.leaving.check)
        self.emit = emit
        self.buffer = InputBuffer(limits.max_media_bytes)
        self._pool = pool
        self._taking: TurnTaking | None = None
        self._revoked = False
        used = kept.usage if kept is not None else Usage()
        self._responses = Responses(self.asking, self.items, emit, limits, self._response_ended, used)
        # The server begins responses beside the client's events.
        self._beginning = asyncio.Lock()
        self._owed = OwedAnswer(self.id, self.answer, self.leaving.check)
        self._held_version = 0  # of the items, when a response that is held back began
        self._take_turns(turn_detection)

    # Life

    @property
    def is_responding(self) -> bool:
        """Whether a response runs that the client knows of."""
        return self._responses.are_told

    @property
    def usage(self) -> Usage:
        """What the session has used so far, also with the connections before: its responses and its transcripts."""
        return self._responses.usage

    def end(self, reason: SessionEnd) -> None:
        """Have the session closed by whoever waits for `ended`. Only the first reason counts."""
        if not self.ended.done():
            self.ended.set_result(reason)

    def drain(self) -> None:
        """End after what is under way: responses, transcripts, and the turn that is spoken now with its answer."""
        self.leaving.drain(self.limits.last_turn_s)

    def revoke(self) -> None:
        """End, as the key was revoked. Running responses fail by themselves, and their clients are told first."""
        self._revoked = True
        if not self._responses:
            self.end(SessionEnd.REVOKED)
        else:  # one that is held back, or whose turn is over and has speech to send, does not fail
            asyncio.get_running_loop().call_later(_LAST_WORDS_S, self.end, SessionEnd.REVOKED)

    async def finish(self) -> None:
        """End after what is under way: the turn that is spoken now, which ends here, responses and transcripts."""
        if self._taking is not None and not self.leaving.is_finishing:
            await self._taking.finish()
        self.leaving.finish()

    def _is_busy(self) -> bool:
        is_ending_turn = self._taking is not None and self._taking.is_ending
        return bool(self._responses) or self._transcriber.is_busy or self._owed.is_being_given or is_ending_turn

    def kept(self) -> KeptSession:
        """Return what is kept of it: what the model still reads."""
        items = self.items.context.items()
        whose, ids = self.principal.project_id, [item.id for item in items]
        return KeptSession(
            self.id, self.model.name, self.settings, whose, self.expires_unix_s, ids, usage=self.usage, items=items
        )

    def uncommitted(self) -> Uncommitted | None:
        """Return what is kept of a manual turn that is not committed; None = nothing."""
        return self.buffer.uncommitted() if self._taking is None and not self.leaving.is_finishing else None

    async def restore(self, items: Sequence[Item], held: Uncommitted | None = None) -> None:
        """Add items of the one that this goes on with, or what its buffer held. Raise TooLarge or Capacity."""
        await self.items.reserve(sum(item.size_bytes for item in items) + (held.size_bytes if held else 0))
        for item in items:
            self.items.add(item)
        if held is not None:
            self.buffer.restore(held)
            detection, self._taking = self.turn_detection, None
            self._take_turns(detection)  # turns are detected in what comes behind it

    async def close(self) -> None:
        """Cancel what runs."""
        self._responses.is_closed = True
        if self._taking is not None:
            await self._taking.close()
        await self._owed.close()
        await self._prefill.close()
        await self._transcriber.close()
        await self._responses.close()

    # Options

    @property
    def turn_detection(self) -> TurnDetection | None:
        """None = turns are manual."""
        return self._taking.options if self._taking is not None else None

    async def set_options(self, options: ResponseOptions, turn_detection: TurnDetection | None) -> None:
        """Take the options for the responses and the turns from now on. Raise BadInput where the model can't serve
        them, TooLarge or Capacity where there is no room for them."""
        self.asking.check(options)
        options.check_text(self.limits.max_text_bytes)
        await self.items.reserve(options.size_bytes - self.options.size_bytes)
        self.options = options
        self.items.version += 1
        if turn_detection is None and self._taking is not None:
            await self._taking.forget()
            await self._taking.close()
        self._take_turns(turn_detection)

    def _take_turns(self, turn_detection: TurnDetection | None) -> None:
        if turn_detection is None:
            self._taking = None
        elif self._taking is not None:
            self._taking.change(turn_detection)
        else:
            self._taking = TurnTaking(turn_detection, self.limits.turns, self._pool, self)

    # Audio

    def stand_still(self, until_s: float) -> None:
        """Note that nothing of an answer is played from now until then, of the monotonic clock: its dialect plays it,
        and is silent. A time that has passed = it goes on."""
        if (last := self._responses.last_in_conversation) is not None:
            last.stand_still(until_s)

    async def append_audio(self, pcm: bytes | bytearray) -> None:
        """Append samples: SAMPLE_RATE, mono, 16 bits signed, little-endian."""
        check_samples(pcm, "audio")
        if self.leaving.is_finishing:
            return
        if self._taking is None:
            self.buffer.check(pcm)
        await self.items.reserve(len(pcm))
        if self._taking is None:
            self.buffer.append(pcm)
        else:
            await self._taking.hear(pcm)
        start = self.buffer.start if self._taking is None else self._taking.turn_start
        if start is not None and not self.buffer.frames.size_bytes:  # a film that grows is another one
            self._prefill.heard(start, end := self.buffer.end, lambda: self._ahead(start, end))

    def _ahead(self, start: int, end: int) -> Intent:
        """Return what reads the turn until `end`. Raise BadInput or TooLarge where a response could not read it."""
        if self.buffer.start > start:
            raise BadInput("The turn is over.")
        return self._responses.reading(self.options, None, Item("user", self.buffer.cut(start, end))).ahead()

    async def append_frame(self, jpeg: bytes) -> None:
        """Append what the user's camera shows now. Raise BadInput, TooLarge or Capacity."""
        frame = frame_of(jpeg, self.buffer.end)
        if not self.leaving.is_finishing:
            await self.items.reserve(len(jpeg))
            self.buffer.frames.add(frame)

    async def commit_audio(self) -> None:
        """Make an item of the user of the audio, at the conversation's end."""
        item = Item("user", self.buffer.contents())
        self.conversation.check_new(item, None)
        if self._taking is not None:
            item.id = await self._taking.forget() or item.id
        self.buffer.clear()
        await self._commit(item)

    async def clear_audio(self) -> None:
        self._prefill.stop()
        if self._taking is not None:
            await self._taking.forget()
        self.buffer.clear()
        await self.emit(AudioCleared())

    async def _commit(self, item: Item) -> None:
        self._prefill.stop()
        self.leaving.turn_added()
        previous_id = self.items.add(item)
        await self.emit(AudioCommitted(item.id, previous_id))
        await self.emit(ItemAdded(item, previous_id))
        if self.options.transcription is not None:
            await self._transcriber.add(item, self.options.transcription)

    # Turns: see turns/floor.py

    @property
    def is_heard(self) -> bool:
        last = self._responses.last_in_conversation
        return last is not None and last.is_heard

    @property
    def is_answering(self) -> bool:
        return self._responses.in_conversation is not None

    async def keep(self, lead: Lead) -> None:
        was_held = self._responses.lead is Lead.NONE
        self._responses.keep(lead)
        if (is_held := lead is Lead.NONE) is not was_held:
            await self.emit(AnswerHeld(is_held))

    def interrupt(self) -> RunningResponse | None:
        if (last := self._responses.last_in_conversation) is not None:
            last.note_interrupted()
            self.items.version += 1
        if (running := self._responses.in_conversation) is not None:
            running.stop(CancelledBy.TURN)
        return running

    async def add_turn(self, item: Item) -> bool:
        try:
            self.conversation.check_new(item, None)
        except AntiphonError as error:
            await self.emit(Refused(error))
            return False
        await self._commit(item)
        return True

    async def answer(self) -> None:
        async with self._beginning:
            if self.is_answering:
                self._owed.owe()
                return
            try:
                await self._responses.begin(self.options, None, None)
            except AntiphonError as error:
                await self.emit(Refused(error))

    async def prepare_answer(self, item: Item) -> RunningResponse | None:
        self._held_version = self.items.version
        async with self._beginning:
            try:
                return await self._responses.begin(self.options, None, None, held_for=item)
            except AntiphonError:
                return None  # it is told at the turn's end

    async def is_finished(self, item: Item) -> bool | None:
        return await self._judge.is_finished(self._responses.heard_with(item), self.options)

    async def is_meant(self, item: Item) -> bool | None:
        return await self._judge.is_meant(self._responses.heard_with(item), self.options)

    def is_current(self, running: RunningResponse) -> bool:
        return self._held_version == self.items.version and not self.is_answering and not running.has_failed

    async def give_answer(self, running: RunningResponse) -> None:
        async with self._beginning:
            if self.is_answering:
                self._responses.discard(running)
                self._owed.owe()
                return
            self._responses.release(running)
            await self.emit(ResponseCreated(running.response))

    def discard_answer(self, running: RunningResponse) -> None:
        self._responses.discard(running)

    # Responses

    async def create_response(
        self,
        options: ResponseOptions,
        *,
        in_conversation: bool = True,
        items: Sequence[Item] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        """Begin a response to `items`; None = the conversation. Its events follow."""
        self._responses.check_room(in_conversation=in_conversation, draining=self.leaving.is_draining)
        async with self._beginning:
            await self._responses.begin(options, items, metadata, in_conversation=in_conversation)

    async def cancel_response(self, response_id: str | None) -> None:
        """Cancel a response; None = the conversation's. Return after its last event."""
        running = self._responses.get(response_id)
        running.stop(CancelledBy.CLIENT)
        await running.wait_over()

    def _response_ended(self, running: RunningResponse, task: asyncio.Task[None]) -> None:
        response = running.response
        self.items.count()
        paid = None if running.is_held else response.usage
        self._prefill.answered(paid)
        self._judge.answered(paid)
        if self._responses.is_closed:
            return
        if not task.cancelled() and task.exception() is not None:
            self.end(SessionEnd.FAULT)
        elif isinstance(response.error, Unauthenticated) or (self._revoked and not self._responses):
            self.end(end_of_key(response.error))
        elif response.conversation_id is not None and not task.cancelled() and self._taking is not None:
            self._go_on(running, self._taking)
        self.leaving.check()

    def _go_on(self, running: RunningResponse, taking: TurnTaking) -> None:
        """After a response of the conversation: give the answer that is owed, or wait for the user."""
        is_given = running.response.status in (ResponseStatus.COMPLETED, ResponseStatus.INCOMPLETE)
        if self._owed.take() and not taking.is_speaking:  # else the turn's end brings it
            self._owed.give()
        elif is_given and not self.leaving.is_finishing:
            taking.wait_for_user(running.unheard_s())

    def _count(self, usage: Usage) -> None:
        self._responses.used += usage
        self._judge.answered(usage)
        self.items.count()

    def _not_transcribed(self, error: AntiphonError) -> None:
        if isinstance(error, Unauthenticated) and not self._responses:  # else those tell it, and end the session
            self.end(end_of_key(error))

    def _other_bytes(self) -> int:
        options = {id(each): each for each in (self.options, *self._responses.options)}
        options_bytes = sum(each.size_bytes for each in options.values())
        read = chain(self._responses.items_read, self._transcriber.items)
        return self.buffer.size_bytes + options_bytes + self.items.bytes_beside(read)
