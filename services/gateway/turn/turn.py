"""One turn, from its messages to its last sample.

    prepare ── think ─┬─ text ──▶ events ──▶ client
                      └─ token ids ─▶ speak ─ speech ──▶ events

An answer that is given is not thought of but recited: it goes from `prepare` to the talker.
A short text needs no `prepare`: the thinker renders the prompt itself and sends it first.
The turn is a task of the gateway's (`Turns`); where it speaks, `think` and `speak` are tasks of one group in it. The
talker's ticket enters its queue as soon as the thinker's slot is granted. Nothing reaches the client before the thinker
has begun and, where speech is asked for, the talker too: whatever refuses a turn does so before anything was sent.

The turn's account comes first: it admits the turn, or a limit refuses it. Prompt, text and speech are taken from it
before they are delivered. It is closed once the client was sent all, or has left: it pays for what it was sent.

Each stage is a run (`run`): where its worker is lost, it goes on with another, and the client sees a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from typing import Any

from services.common.errors import INTERNAL, AntiphonError, Fault, TimedOut, forget_frames, root_cause
from services.common.stages import PREPROCESS, TALKER, THINKER
from services.common.telemetry.logs import set_request_id
from services.common.telemetry.tracing import span
from services.gateway import metrics
from services.gateway.turn.amounts import DISCARDED
from services.gateway.turn.event_queue import EventQueue
from services.gateway.turn.events import TurnDone, TurnEvent, Usage
from services.gateway.turn.intent import SpeechOptions
from services.gateway.turn.leases import Leases
from services.gateway.turn.model import Model
from services.gateway.turn.ports import Account, Accounts, SlotClient, Stages
from services.gateway.turn.prepare import cost_of, cost_of_decoding, prepare
from services.gateway.turn.prompt import PromptUsage
from services.gateway.turn.recite import recite
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.run import run_stage
from services.gateway.turn.speak import SpeakRun
from services.gateway.turn.state import TurnState
from services.gateway.turn.think import ThinkRun
from services.gateway.turn.timings import TurnTimes
from services.gateway.turn.worker_calls import SpeechDone, TextDone

# Events that may wait for a slow client: about five seconds of speech.
EVENT_QUEUE_SIZE = 64
RELEASE_TIMEOUT_S = 2.0
_WAITED_RETRY_S = 5.0
_CLIENT_DEADLINE = "client_deadline"

logger = logging.getLogger(__name__)


class Turn:
    """Runs one turn and reports it through `events`."""

    def __init__(
        self,
        request: TurnRequest,
        slots: SlotClient,
        stages: Stages,
        accounts: Accounts,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
        account: Account | None = None,
    ) -> None:
        """`account`: one that is opened already; None = the turn opens its own."""
        self.request = request
        self.events = EventQueue(EVENT_QUEUE_SIZE)
        lets_pass = request.principal.is_batch or request.intent.is_free
        self.times = TurnTimes(request.intent.arrived_s, is_awaited=not lets_pass)
        self._spawn = spawn
        leases = Leases(slots, request, self.times)
        self._state = TurnState(request, stages, leases, self.events, self.times, is_discarded=request.intent.is_free)
        self.account = self._state.account = account or accounts.account_of(request, self._state)
        self.account.follow(self._state)
        # The timeout of the work, while it runs.
        self._patience: asyncio.Timeout | None = None
        self._cut: AntiphonError | None = None
        self._all_sent = asyncio.Event()
        self.answers_whole = False
        """The entrance sends nothing before the answer's end. Where its client does not wait for that, it pays for what
        was made."""

    @property
    def model(self) -> Model:
        return self.request.model

    @property
    def billed(self) -> bool:
        """Whether tokens were generated: a client should then not retry by itself."""
        return bool(self._state.answer.generated_tokens or self._state.answer.frames)

    @property
    def usage(self) -> Usage:
        """What the turn has used so far: what its client was sent."""
        amounts = self._state.amounts()
        return Usage(
            prompt=PromptUsage(
                text_tokens=amounts.prompt_text_tokens,
                image_tokens=amounts.prompt_image_tokens,
                audio_tokens=amounts.prompt_audio_tokens,
                video_tokens=amounts.prompt_video_tokens,
            ),
            cached_tokens=amounts.cached_tokens,
            completion_text_tokens=amounts.completion_text_tokens,
            completion_audio_tokens=amounts.completion_audio_tokens,
            reasoning_tokens=amounts.reasoning_tokens,
        )

    def sent(self, events: Sequence[TurnEvent]) -> None:
        """Note that the client was sent these events. What it was not sent it does not pay."""
        state = self._state
        state.sent.add(events)
        if state.sent.all_counts:
            self._all_sent.set()
        else:
            self.account.sent(state.sent.text_tokens, state.frames_sent)

    def sent_all(self) -> None:
        """Note that the client was sent the whole answer."""
        self._state.sent.all_counts = True
        self._all_sent.set()

    def discard(self) -> None:
        """Have the turn cost its client nothing, for nothing of it was delivered. End it next."""
        self._state.is_discarded = True

    def cut(self, error: AntiphonError, *, at_once: bool = False) -> None:
        """End the turn with `error`, unless it is over already. The listener gets the error; `at_once`: it gets nothing
        else, not even what is made already."""
        self._cut = error
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())
        if at_once:
            self.events.cut(error)

    async def run(self) -> None:
        """Run until the client was sent the turn's end. Raise only CancelledError: the listener gets all other
        errors."""
        speech = str(self.request.speaks).lower()
        outcome = ended_with = "cancelled"
        try:
            try:
                set_request_id(self.request.request_id)
                with span("antiphon.gateway.turn") as of_turn:
                    of_turn.set_attribute("antiphon.request_id", self.request.request_id)
                    error = await self._run_to_the_end()
                    outcome = ended_with = self._outcome(error)
                    if error is not None and outcome == error.default_code:
                        ended_with = error.code
                    of_turn.set_attribute("antiphon.outcome", outcome)
            finally:
                if self._state.is_discarded:
                    outcome = ended_with = DISCARDED
                metrics.TURNS.labels(outcome, speech, self.request.principal.label).inc()
                self._count_tokens()
                if outcome == "cancelled":
                    metrics.CANCELS.inc()
                self._spawn(self._end(), f"end {self.request.request_id}")
            if error is None and self.times.is_awaited:
                metrics.TURN.observe(self.times.now_s())
            self.events.end(error)
            try:
                await self._deliver()
            except asyncio.CancelledError:
                if error is None and not self._all_sent.is_set():
                    ended_with = "cancelled"  # before the client was sent all that was made
                raise
        finally:
            if self._state.is_discarded:  # perhaps after its end
                ended_with = DISCARDED
            if self.answers_whole and ended_with in ("cancelled", "ok", _CLIENT_DEADLINE):
                self._state.sent.all_counts = True
            self._spawn(self.account.close(ended_with), f"account {self.request.request_id}")

    async def _deliver(self) -> None:
        """Wait until the client was sent all, at most to the deadline. Its leaving cancels the turn."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self._state.remaining_s()):
                await self._all_sent.wait()

    async def _run_to_the_end(self) -> AntiphonError | None:
        patience = asyncio.timeout(0 if self._cut else self._state.remaining_s())
        try:
            async with patience:
                self._patience = patience
                try:
                    await self._work()
                finally:
                    self._patience = None
        except TimeoutError:
            if patience.expired():
                return self._cut or self._timed_out()
            logger.exception("turn %s failed", self.request.request_id)
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # Nobody asked for it: something that the turn waited for was cancelled. Its client waits for an end.
            logger.exception("turn %s failed", self.request.request_id)
        except AntiphonError as error:
            forget_frames(error)
            return error
        except ExceptionGroup as group:
            known = root_cause(group)
            if known is None:
                logger.exception("turn %s failed", self.request.request_id)
            forget_frames(group)
            return known or Fault(INTERNAL)
        except Exception:
            logger.exception("turn %s failed", self.request.request_id)
        else:
            return None
        finally:
            del patience  # it holds the task, whose error holds this frame
        return Fault(INTERNAL)

    async def _work(self) -> None:
        await self.account.open()
        await self._state.leases.wake(self.request.asleep)
        if not self.request.thinker_renders:
            await prepare(self._state)
        name, speech = self.request.request_id, self.request.intent.speech
        text = recite(self._state) if self.request.intent.said else self._think()
        if speech is None:
            await self.events.put(self._done(await text, None))
            return
        async with asyncio.TaskGroup() as tasks:
            thinking = tasks.create_task(text, name=f"think {name}")
            speaking = tasks.create_task(self._speak(speech), name=f"speak {name}")
        await self.events.put(self._done(thinking.result(), speaking.result()))

    async def _think(self) -> TextDone:
        with span("antiphon.gateway.think"):
            done = await run_stage(ThinkRun(self._state), self._state.leases)
        self.times.generated(len(self._state.answer.token_ids))
        return done

    async def _speak(self, speech: SpeechOptions) -> SpeechDone:
        await self._state.answer.thinker_granted.wait()
        with span("antiphon.gateway.speak"):
            return await run_stage(SpeakRun(self._state, speech), self._state.leases)

    # The end

    def _timed_out(self) -> TimedOut:
        """Say what the deadline cut. A wait for a worker is nothing that is wrong with the request: it says when to ask
        again."""
        if self._state.leases.awaited and not self.billed:
            return TimedOut(
                "The deadline passed while the request waited for a free worker. Send it again later, or allow more"
                " time.",
                retry_after_s=_WAITED_RETRY_S,
            )
        return TimedOut("The deadline passed before the answer was complete. Ask for less, or allow more time.")

    def _outcome(self, error: AntiphonError | None) -> str:
        if error is None:
            return "ok"
        if isinstance(error, TimedOut) and self.request.is_hurried:
            return _CLIENT_DEADLINE  # the operator's longer deadline might have sufficed
        return error.default_code

    def _done(self, text: TextDone, speech: SpeechDone | None) -> TurnDone:
        answer = self._state.answer
        usage = Usage(
            prompt=answer.prepared.usage,
            cached_tokens=answer.cached_tokens,
            completion_text_tokens=answer.generated_tokens,
            completion_audio_tokens=answer.frames,
            reasoning_tokens=text.reasoning_tokens,
        )
        return TurnDone(
            text.finish_reason,
            usage,
            speech.reason if speech is not None else None,
            self.times.told(),
            text.stopped_by,
            limit=self.account.limit,
            dropped_messages=self._state.dropped_messages,
            derailment=answer.derailment,
            spoken_again=answer.spoken_again,
        )

    def _count_tokens(self) -> None:
        """Count the tokens of a turn, however it ended. The prompt counts once a model has read it."""
        answer, prompt = self._state.answer, self._state.answer.prepared.usage
        if not answer.prompt_read:
            return
        counts = (
            len(answer.prepared.token_ids) + len(answer.prepared.said_token_ids),
            prompt.image_tokens,
            prompt.audio_tokens,
            prompt.video_tokens,
            answer.cached_tokens,
            answer.generated_tokens,
            answer.frames,
        )
        for counter, tokens in zip(metrics.tokens_of(self.request.principal.label), counts, strict=True):
            if tokens:
                counter.inc(tokens)

    async def _end(self) -> None:
        """Release the turn on every worker that may hold something for it, and charge its real cost."""
        in_vain_s, state = await self._release(), self._state
        answer = state.answer
        if answer.prepared.token_ids:
            await state.leases.settle(PREPROCESS, cost_of(answer.prepared))
        await state.leases.charge_in_vain(PREPROCESS, cost_of_decoding(in_vain_s))
        await state.leases.settle(THINKER, len(answer.prepared.token_ids) + len(answer.token_ids))
        await state.leases.settle(TALKER, answer.frames)

    async def _release(self) -> float:
        """Return what decoding cost in vain. A worker that is away holds nothing."""
        request_id, stages, touched = self.request.request_id, self._state.stages, self._state.leases.touched
        prices = [
            stages.preprocess.release(address, request_id, RELEASE_TIMEOUT_S) for address in touched.get(PREPROCESS, ())
        ]
        others = [
            stages.thinker.release(address, request_id, RELEASE_TIMEOUT_S) for address in touched.get(THINKER, ())
        ]
        if not prices and not others:
            return 0.0
        in_vain_s = 0.0
        for outcome in await asyncio.gather(*prices, *others, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.info("turn %s was not released: %s", request_id, type(outcome).__name__)
            elif isinstance(outcome, float):
                in_vain_s += outcome
        return in_vain_s


def _is_cancelled() -> bool:
    """Return whether somebody cancelled this task. A frame that held the task would form a cycle with its traceback."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
