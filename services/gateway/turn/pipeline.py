"""One turn, from its messages to its last sample.

    prepare ── think ─┬─ text ──▶ events ──▶ client
                      └─ token ids ─▶ speak ─ speech ──▶ events

`think` and `speak` are tasks of one group, and the turn itself is a task of `Turns`. The talker's ticket enters its
queue as soon as the thinker's slot is granted. The client receives nothing before the thinker and, for speech, the
talker have begun, so that a turn is refused before anything was sent.

A stage whose worker is away or no longer knows the lease runs again on another worker (`leases`), as long as it has
sent nothing. A worker that is lost later fails the turn with WorkerLost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from contextlib import aclosing
from typing import Any

from opentelemetry import trace

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import INTERNAL, AntiphonError, Fault, TimedOut, WorkerLost, root_cause
from services.common.stages import PREPROCESS, TALKER, THINKER
from services.gateway import metrics
from services.gateway.turn.answer import Answer
from services.gateway.turn.catalogue import check_length
from services.gateway.turn.events import EventQueue
from services.gateway.turn.leases import Attempt, Leases
from services.gateway.turn.ports import Slots, Stages
from services.gateway.turn.request import SpeechRequest, TurnRequest
from services.gateway.turn.spoken_text import speak_requests
from services.gateway.turn.timings import TurnTimes

# How many events may wait for a slow client: about five seconds of speech.
EVENT_QUEUE_SIZE = 64
RELEASE_TIMEOUT_S = 2.0
# The assumed cost of an answer without a limit, in tokens.
TYPICAL_ANSWER_TOKENS = 512

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("antiphon")


class Turn:
    """Runs one turn and reports it through `events`."""

    def __init__(
        self,
        request: TurnRequest,
        card: common_pb2.ModelCard,
        slots: Slots,
        stages: Stages,
        spawn: Callable[[Coroutine[Any, Any, None], str], None],
    ) -> None:
        self.request = request
        self.card = card
        self.events = EventQueue(EVENT_QUEUE_SIZE)
        self.times = TurnTimes(request.arrived_s)
        self._stages = stages
        self._spawn = spawn
        self._answer = Answer()
        self._generated = thinker_pb2.GenerateDone()
        self._spoken = talker_pb2.SpeakDone()
        self._sample_rate = card.sample_rate
        self._thinker_granted = asyncio.Event()
        # The deadline, while the turn works.
        self._patience: asyncio.Timeout | None = None
        self._cut: AntiphonError | None = None
        self._leases = Leases(slots, request, card.name, self.times)

    @property
    def billed(self) -> bool:
        """Whether tokens were generated, so that clients should not retry by themselves."""
        return bool(self._answer.token_ids)

    def cut(self, error: AntiphonError) -> None:
        """End the turn with `error`, which the client receives, unless the turn is over."""
        self._cut = error
        if self._patience is not None and not self._patience.expired():
            self._patience.reschedule(asyncio.get_running_loop().time())

    async def run(self) -> None:
        """Run to the turn's end. Raise nothing but CancelledError: errors go to `events`."""
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
            async with asyncio.timeout(0 if self._cut else self._remaining_s()) as self._patience:
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
        await self._leases.wake(self.request.asleep)
        await self._prepare()
        name = self.request.context.request_id
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._think(), name=f"think {name}")
            if self.request.speech is not None:
                tasks.create_task(self._speak(self.request.speech), name=f"speak {name}")
        await self.events.put(self._done())

    # Preprocess

    async def _prepare(self) -> None:
        request = self.request

        async def call(attempt: Attempt) -> preprocess_pb2.PrepareResponse:
            start = preprocess_pb2.PrepareStart(
                context=request.context,
                lease=attempt.grant.lease,
                model=self.card.name,
                messages=request.messages,
                use_audio_in_video=request.use_audio_in_video,
            )
            self._leases.note_call(PREPROCESS, attempt)
            address, timeout_s = attempt.grant.address, self._remaining_s()
            prepared = await self._stages.preprocess.prepare(address, start, request.inline, timeout_s)
            attempt.began = True
            return prepared

        with tracer.start_as_current_span("antiphon.gateway.prepare"):
            prepared = await self._leases.run(PREPROCESS, 1.0 + sum(map(len, request.inline)) / 1e6, call)
        self.times.prepared()
        limit = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else None
        check_length(self.card, len(prepared.prompt_token_ids), limit)
        self._answer.prepared = prepared
        await self.events.put(
            gateway_pb2.ConverseStarted(
                request_id=request.context.request_id, prompt_token_ids=prepared.prompt_token_ids
            )
        )

    # Thinker

    async def _think(self) -> None:
        with tracer.start_as_current_span("antiphon.gateway.think"):
            await self._leases.run(THINKER, self._thinker_cost(), self._generate)

    async def _generate(self, attempt: Attempt) -> None:
        self._thinker_granted.set()
        prepared = self._answer.prepared
        request = thinker_pb2.GenerateRequest(
            context=self.request.context,
            lease=attempt.grant.lease,
            model=self.card.name,
            prompt_token_ids=prepared.prompt_token_ids,
            features=prepared.features,
            sampling=self.request.sampling,
            wants_hidden_states=self.request.speech is not None,
        )
        self._leases.note_call(THINKER, attempt)
        generating = self._stages.thinker.generate(attempt.grant.address, request, self._remaining_s())
        async with aclosing(generating) as responses:
            async for response in responses:
                attempt.began = True
                await self._take_generated(response)
        if not self._answer.ended or self._generated.finish_reason == thinker_pb2.FINISH_REASON_UNSPECIFIED:
            raise WorkerLost("The thinker worker ended before the answer did. Send the request again.", retry_after_s=1)
        self.times.generated(len(self._answer.token_ids))

    async def _take_generated(self, response: thinker_pb2.GenerateResponse) -> None:
        match response.WhichOneof("event"):
            case "hidden_states":
                self._answer.hidden_states = response.hidden_states.hidden_states
            case "text":
                await self._take_text(response.text)
            case "done":
                self._generated = response.done
            case None:
                pass

    async def _take_text(self, text: thinker_pb2.GeneratedText) -> None:
        self.times.tokens()
        self._answer.add_tokens(text.token_ids, is_last=text.is_last)
        if self.request.speech is None:
            self.events.release()
        await self.events.put(text)

    # Talker

    async def _speak(self, speech: SpeechRequest) -> None:
        async def call(attempt: Attempt) -> None:
            if self._answer.prepared.features:  # their hidden states come before the first token
                await self._answer.tokens_after(0)
            self._leases.note_call(TALKER, attempt)
            accepted = asyncio.Event()
            requests = speak_requests(self.request, speech, attempt.grant, self._answer, accepted)
            speaking = self._stages.talker.speak(attempt.grant.address, requests, self._remaining_s())
            async with aclosing(speaking) as responses:
                async for response in responses:
                    attempt.began = True
                    accepted.set()
                    await self._take_speech(response)
                    if response.HasField("done"):
                        break  # speech may end before its text
            if self._spoken.reason == talker_pb2.SPEECH_END_UNSPECIFIED:
                raise WorkerLost(
                    "The talker worker ended before the speech did. Send the request again.", retry_after_s=1
                )

        await self._thinker_granted.wait()
        with tracer.start_as_current_span("antiphon.gateway.speak"):
            await self._leases.run(TALKER, float(speech.max_frames or TYPICAL_ANSWER_TOKENS), call)

    async def _take_speech(self, response: talker_pb2.SpeakResponse) -> None:
        match response.WhichOneof("event"):
            case "started":
                self._answer.codebooks = response.started.codebooks
                self._sample_rate = response.started.sample_rate
                self.events.release()
                await self.events.put(response.started)
            case "speech":
                self._answer.codes.extend(response.speech.codes)
                self.times.speech(len(response.speech.pcm))
                await self.events.put(response.speech)
            case "done":
                self._spoken = response.done
                self.times.spoken(response.done, self._sample_rate)
            case None:
                pass

    # The end

    def _outcome(self, error: AntiphonError | None) -> str:
        if error is None:
            return "ok"
        if isinstance(error, TimedOut) and self.request.is_hurried:
            return "client_deadline"  # within the operator's deadline it might have been answered
        return error.default_code

    def _thinker_cost(self) -> float:
        limit = self.request.sampling.max_tokens or TYPICAL_ANSWER_TOKENS
        return float(len(self._answer.prepared.prompt_token_ids) + limit)

    def _remaining_s(self) -> float:
        """Return the seconds until the deadline, which every request has."""
        return max(self.request.context.deadline_unix_ms / 1000 - time.time(), 0.0)

    def _done(self) -> gateway_pb2.ConverseDone:
        answer, generated = self._answer, self._generated
        usage = gateway_pb2.Usage(
            prompt=answer.prepared.usage,
            cached_tokens=generated.cached_tokens,
            completion_text_tokens=len(answer.token_ids),
            completion_audio_tokens=self._spoken.frames,
            reasoning_tokens=generated.reasoning_tokens,
        )
        return gateway_pb2.ConverseDone(
            finish_reason=generated.finish_reason,
            usage=usage,
            speech_end=self._spoken.reason,
            timings=self.times.message(),
        )

    def _count_tokens(self) -> None:
        """Count the tokens of a turn, however it ended. Its prompt counts once the thinker has generated a token."""
        answer, prompt = self._answer, self._answer.prepared.usage
        if not answer.token_ids:
            return
        for kind, tokens in (
            ("prompt", len(answer.prepared.prompt_token_ids)),
            ("prompt_image", prompt.image_tokens),
            ("prompt_audio", prompt.audio_tokens),
            ("prompt_video", prompt.video_tokens),
            ("prompt_cached", self._generated.cached_tokens),
            ("text", len(answer.token_ids)),
            ("audio", answer.frames),
        ):
            metrics.TOKENS.labels(kind, self.request.tenant_label).inc(tokens)

    async def _end(self) -> None:
        """Release what workers hold for this turn, and charge what it really cost.

        A worker that is away holds nothing.
        """
        request_id = self.request.context.request_id
        clients = {PREPROCESS: self._stages.preprocess, THINKER: self._stages.thinker}
        calls = [
            client.release(address, request_id, RELEASE_TIMEOUT_S)
            for stage, client in clients.items()
            for address in self._leases.touched.get(stage, ())
        ]
        for outcome in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(outcome, Exception):
                logger.info("turn %s was not released: %s", request_id, type(outcome).__name__)
        answer = self._answer
        await self._leases.settle(THINKER, len(answer.prepared.prompt_token_ids) + len(answer.token_ids))
        await self._leases.settle(TALKER, answer.frames)
