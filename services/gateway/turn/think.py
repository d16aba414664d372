"""The text of a turn: reads tokens from a thinker, and makes lost hidden states again by a prefill."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import TypeVar

from services.common.errors import WorkerLost
from services.common.stages import THINKER
from services.gateway.turn.events import FinishReason, Text
from services.gateway.turn.intent import Sampling
from services.gateway.turn.leases import Attempt
from services.gateway.turn.prepare import begin, prepare_again
from services.gateway.turn.prompt import Prepared, TensorRef
from services.gateway.turn.run import Run, run_stage
from services.gateway.turn.state import TurnState
from services.gateway.turn.worker_calls import GenerateCall, TextDone

# What an answer without a limit by the client is taken to cost at most, in tokens: it is settled later.
TYPICAL_ANSWER_TOKENS = 512
_BYTES_PER_TOKEN = 4


R = TypeVar("R")


class _ThinkerRun(Run[R]):
    """A run on a thinker, which fetches the prompt's features."""

    stage = THINKER

    def __init__(self, state: TurnState) -> None:
        self._state = state
        # The prompt of the attempt under way: its features are prepared again if a thinker misses them.
        self._used = state.answer.prepared

    def _call(
        self, attempt: Attempt, sampling: Sampling, generated_token_ids: Sequence[int], *, wants_hidden_states: bool
    ) -> GenerateCall:
        state = self._state
        self._used = state.answer.prepared
        state.leases.called(attempt, keeps=wants_hidden_states and bool(self._used.features))
        return GenerateCall(
            grant=attempt.grant,
            failed_engines=attempt.failed_engines,
            request=state.request,
            timeout_s=state.remaining_s(),
            prepared=self._used,
            sampling=sampling,
            generated_token_ids=generated_token_ids,
            wants_hidden_states=wants_hidden_states,
        )

    async def remake(self, code: str) -> None:
        await prepare_again(self._state, self._used)


class ThinkRun(_ThinkerRun[TextDone]):
    """Continues the text after the answer's last token."""

    @property
    def cost(self) -> float:
        return self.known_cost + (self._state.request.intent.sampling.max_tokens or TYPICAL_ANSWER_TOKENS)

    @property
    def known_cost(self) -> float:
        # About, where the thinker is to render the prompt.
        intent = self._state.request.intent
        return float(len(self._state.answer.prepared.token_ids) or intent.text_bytes // _BYTES_PER_TOKEN)

    @property
    def progress(self) -> int:
        return len(self._state.answer.token_ids)

    async def call(self, attempt: Attempt) -> TextDone:
        state, answer = self._state, self._state.answer
        answer.thinker_granted.set()
        call = self._call(
            attempt,
            state.request.intent.sampling,
            answer.token_ids,
            # A talker that has begun already has them.
            wants_hidden_states=state.request.speaks and not answer.speech_began,
        )
        done: TextDone | None = None
        async with aclosing(state.stages.thinker.generate(call)) as events:
            async for event in events:
                if not attempt.began:
                    state.leases.began(attempt)
                match event:
                    case Text():
                        if not await self._apply(event):
                            return TextDone(FinishReason.LENGTH, answer.reasoning_tokens)
                    case Prepared():
                        await begin(state, event)
                    case TensorRef():
                        answer.hidden_states = event
                    case TextDone():
                        done = event
        if not answer.ended or done is None:
            raise WorkerLost("The thinker worker ended before the answer did. Send the request again.", retry_after_s=1)
        answer.reasoning_tokens = done.reasoning_tokens
        return done

    async def _apply(self, text: Text) -> bool:
        """Deliver the text. Return False where a limit ends the answer before it: the thinker is to stop."""
        state, answer = self._state, self._state.answer
        answer.prompt_read = True
        if answer.token_ids:
            # Only the first prefill counts: a resume hits the answer's own cache entries.
            text = replace(text, cached_tokens=0) if text.cached_tokens else text
        else:
            answer.cached_tokens = text.cached_tokens
        state.times.tokens()
        fits = await state.account.take_text(len(text.token_ids))
        if fits:
            answer.reasoning_tokens += len(text.token_ids) if text.reasoning_delta else 0
            answer.add_tokens(text.token_ids, is_last=text.is_last)
        else:
            answer.cut(text.token_ids)
            text = Text((), is_last=True)
        if not state.request.speaks:
            state.events.release()
        await state.events.put(text)
        return fits


class HiddenStatesRun(_ThinkerRun[TensorRef]):
    """Makes the hidden states of the prompt's media again, by a prefill that generates no new token."""

    @property
    def cost(self) -> float:
        return float(len(self._state.answer.prepared.token_ids))

    @property
    def progress(self) -> int:
        return 0  # the hidden states are complete or missing

    @property
    def resumes(self) -> bool:
        return True

    async def call(self, attempt: Attempt) -> TensorRef:
        state, answer = self._state, self._state.answer
        call = self._call(
            attempt, Sampling(temperature=0, max_tokens=1), answer.token_ids[:1], wants_hidden_states=True
        )
        made: TensorRef | None = None
        async with aclosing(state.stages.thinker.generate(call)) as events:
            async for event in events:
                state.leases.began(attempt)
                if isinstance(event, TensorRef):
                    made = event
        if made is None:
            raise WorkerLost(
                "The thinker worker ended before the hidden states were there. Send the request again.", retry_after_s=1
            )
        answer.hidden_states = made
        return made


async def make_hidden_states_again(state: TurnState, missed: TensorRef | None) -> None:
    """Make the hidden states again, unless another thinker has sent new ones since the talker missed `missed`."""
    if state.answer.hidden_states is missed:
        await run_stage(HiddenStatesRun(state), state.leases)
