"""One turn, from its messages to its last sample.

    prepare ── think ─┬─ text ──▶ events ──▶ client
                      └─ token ids ─▶ speak ─ speech ──▶ events

`think` and `speak` are tasks of one group; the turn itself is a task of the gateway's (`Turns`). The talker's ticket
enters its queue as soon as the thinker's slot is granted. Nothing reaches the client before the thinker has begun and,
where speech is asked for, the talker too: whatever refuses a turn does so before anything was sent.

Each stage is a run (`run`): where its worker is lost, it goes on with another, and the client sees a pause.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from opentelemetry import trace

from antiphon.v1 import common_pb2, gateway_pb2
from services.common.errors import INTERNAL, AntiphonError, Fault, TimedOut, root_cause
from services.common.stages import PREPROCESS, TALKER, THINKER
from services.gateway import metrics
from services.gateway.turn.events import EventQueue
from services.gateway.turn.leases import Leases
from services.gateway.turn.ports import SlotClient, Stages
from services.gateway.turn.prepare import prepare
from services.gateway.turn.request import SpeechOptions, TurnRequest
from services.gateway.turn.run import run_stage
from services.gateway.turn.speak import SpeakRun
from services.gateway.turn.state import TurnState
from services.gateway.turn.think import ThinkRun
from services.gateway.turn.timings import TurnTimes

# Events that may wait for a slow client: about five seconds of speech.
EVENT_QUEUE_SIZE = 64
RELEASE_TIMEOUT_S = 2.0

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("antiphon")


class Turn:
    """Runs one turn and reports it through `events`."""

    def __init__(
        self,
        request: TurnRequest,
        card: common_pb2.ModelCard,
        slots: SlotClient,
        stages: Stages,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        self.request = request
        self.card = card
        self.events = EventQueue(EVENT_QUEUE_SIZE)
        self.times = TurnTimes(request.arrived_s)
        self._spawn = spawn
        leases = Leases(slots, request, card.name, self.times)
        self._state = TurnState(request, card, stages, leases, self.events, self.times)
        # The timeout of the work, while it runs.
        self._patience: asyncio.Timeout | None = None
        self._cut: AntiphonError | None = None

    @property
    def billed(self) -> bool:
        """Whether tokens were generated: a client should then not retry by itself."""
        return bool(self._state.answer.token_ids)

    def cut(self, error: AntiphonError) -> None:
        """End the turn with `error`, unless it is over already. The listener gets the error."""
        self._cut = error
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Run to the turn's end. Raise only CancelledError: the listener gets all other errors."""
        speech = str(self.request.speech is not None).lower()
        outcome = "cancelled"
        try:
            with tracer.start_as_current_span("antiphon.gateway.turn") as span:
                span.set_attribute("antiphon.request_id", self.request.context.request_id)
                error = await self._run_to_the_end()
                outcome = self._outcome(error)
                span.set_attribute("antiphon.outcome", outcome)
        finally:
            metrics.TURNS.labels(outcome, speech, self.request.tenant_label).inc()
            self._count_tokens()
            if outcome == "cancelled":
                metrics.CANCELS.inc()
            self._spawn(self._end(), f"end {self.request.context.request_id}")
        if error is None:
            metrics.TURN.observe(self.times.now_s())
        await self.events.end(error)

    async def _run_to_the_end(self) -> AntiphonError | None:
        try:
            async with asyncio.timeout(0 if self._cut else self._state.remaining_s()) as self._patience:
                try:
                    await self._work()
                finally:
                    self._patience = None
        except TimeoutError:
            return self._cut or TimedOut(
                "The deadline passed before the answer was complete. Ask for less, or allow more time."
            )
        except AntiphonError as error:
            return error
        except ExceptionGroup as group:
            known = root_cause(group)
            if known is None:
                logger.exception("turn %s failed", self.request.context.request_id)
            return known or Fault(INTERNAL)
        except Exception:
            logger.exception("turn %s failed", self.request.context.request_id)
            return Fault(INTERNAL)
        return None

    async def _work(self) -> None:
        await self._state.leases.wake(self.request.asleep)
        await prepare(self._state)
        name = self.request.context.request_id
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._think(), name=f"think {name}")
            if self.request.speech is not None:
                tasks.create_task(self._speak(self.request.speech), name=f"speak {name}")
        await self.events.put(self._done())

    async def _think(self) -> None:
        with tracer.start_as_current_span("antiphon.gateway.think"):
            await run_stage(ThinkRun(self._state), self._state.leases)
        self.times.generated(len(self._state.answer.token_ids))

    async def _speak(self, speech: SpeechOptions) -> None:
        await self._state.answer.thinker_granted.wait()
        with tracer.start_as_current_span("antiphon.gateway.speak"):
            await run_stage(SpeakRun(self._state, speech), self._state.leases)

    # The end

    def _outcome(self, error: AntiphonError | None) -> str:
        if error is None:
            return "ok"
        if isinstance(error, TimedOut) and self.request.is_hurried:
            return "client_deadline"  # the operator's longer deadline might have sufficed
        return error.default_code

    def _done(self) -> gateway_pb2.ConverseDone:
        answer = self._state.answer
        usage = gateway_pb2.Usage(
            prompt=answer.prepared.usage,
            cached_tokens=answer.cached_tokens,
            completion_text_tokens=len(answer.token_ids),
            completion_audio_tokens=answer.frames,
            reasoning_tokens=answer.generated.reasoning_tokens,
        )
        return gateway_pb2.ConverseDone(
            finish_reason=answer.generated.finish_reason,
            usage=usage,
            speech_end=answer.spoken.reason,
            timings=self.times.message(),
        )

    def _count_tokens(self) -> None:
        """Count the tokens of a turn, however it ended. The prompt counts once the thinker has read it."""
        answer, prompt = self._state.answer, self._state.answer.prepared.usage
        if not answer.token_ids:
            return
        for kind, tokens in (
            ("prompt", len(answer.prepared.prompt_token_ids)),
            ("prompt_image", prompt.image_tokens),
            ("prompt_audio", prompt.audio_tokens),
            ("prompt_video", prompt.video_tokens),
            ("prompt_cached", answer.cached_tokens),
            ("text", len(answer.token_ids)),
            ("audio", answer.frames),
        ):
            metrics.TOKENS.labels(kind, self.request.tenant_label).inc(tokens)

    async def _end(self) -> None:
        """Release the turn on every worker that may hold something for it, and charge its real cost.

        A worker that is away holds nothing.
        """
        request_id, state = self.request.context.request_id, self._state
        clients = {PREPROCESS: state.stages.preprocess, THINKER: state.stages.thinker}
        calls = [
            client.release(address, request_id, RELEASE_TIMEOUT_S)
            for stage, client in clients.items()
            for address in state.leases.touched.get(stage, ())
        ]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.info("turn %s was not released: %s", request_id, type(outcome).__name__)
        answer = state.answer
        await state.leases.settle(THINKER, len(answer.prepared.prompt_token_ids) + len(answer.token_ids))
        await state.leases.settle(TALKER, answer.frames)
