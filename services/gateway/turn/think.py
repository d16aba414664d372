"""The text of a turn: reads tokens from a thinker, and makes lost hidden states again by a prefill."""

from __future__ import annotations

from contextlib import aclosing

from antiphon.v1 import common_pb2, preprocess_pb2, thinker_pb2
from services.common.errors import WorkerLost
from services.common.stages import THINKER
from services.gateway.turn.leases import Attempt
from services.gateway.turn.prepare import prepare_again
from services.gateway.turn.run import Run, run_stage
from services.gateway.turn.state import TurnState

# The assumed cost of an answer without a limit by the client, in tokens.
TYPICAL_ANSWER_TOKENS = 512


class _ThinkerRun(Run):
    """A run on a thinker, which fetches the prompt's features."""

    stage = THINKER

    def __init__(self, state: TurnState) -> None:
        self._state = state
        # The prompt of the attempt under way: its features are prepared again if a thinker misses them.
        self._used = state.answer.prepared

    async def remake(self, code: str) -> None:
        await prepare_again(self._state, self._used)


class ThinkRun(_ThinkerRun):
    """Continues the text after the answer's last token."""

    @property
    def cost(self) -> float:
        limit = self._state.request.sampling.max_tokens or TYPICAL_ANSWER_TOKENS
        return float(len(self._state.answer.prepared.prompt_token_ids) + limit)

    @property
    def progress(self) -> int:
        return len(self._state.answer.token_ids)

    async def call(self, attempt: Attempt) -> None:
        state, answer = self._state, self._state.answer
        answer.thinker_granted.set()
        request = generate_request(state, attempt, state.request.sampling)
        request.generated_token_ids.extend(answer.token_ids)
        # A talker that has begun already has them.
        request.wants_hidden_states = state.request.speech is not None and not answer.speech_began
        self._used = answer.prepared
        state.leases.called(attempt)
        generating = state.stages.thinker.generate(attempt.grant.address, request, state.remaining_s())
        async with aclosing(generating) as responses:
            async for response in responses:
                state.leases.began(attempt)
                await self._apply(response)
        if not answer.ended or answer.generated.finish_reason == thinker_pb2.FINISH_REASON_UNSPECIFIED:
            raise WorkerLost("The thinker worker ended before the answer did. Send the request again.", retry_after_s=1)

    async def _apply(self, response: thinker_pb2.GenerateResponse) -> None:
        answer = self._state.answer
        match response.WhichOneof("event"):
            case "hidden_states":
                answer.hidden_states = response.hidden_states.hidden_states
            case "text":
                await self._apply_text(response.text)
            case "done":
                answer.generated = response.done
            case None:
                pass

    async def _apply_text(self, text: thinker_pb2.GeneratedText) -> None:
        state, answer = self._state, self._state.answer
        if answer.token_ids:
            text.cached_tokens = 0  # only the first prefill counts: a resume hits the answer's own cache entries
        else:
            answer.cached_tokens = text.cached_tokens
        state.times.tokens()
        answer.add_tokens(text.token_ids, is_last=text.is_last)
        if state.request.speech is None:
            state.events.release()
        await state.events.put(text)


class HiddenStatesRun(_ThinkerRun):
    """Makes the hidden states of the prompt's media again, by a prefill that generates no new token."""

    @property
    def cost(self) -> float:
        return float(len(self._state.answer.prepared.prompt_token_ids))

    @property
    def progress(self) -> int:
        return 0  # the hidden states are complete or missing

    @property
    def resumes(self) -> bool:
        return True

    async def call(self, attempt: Attempt) -> None:
        state, answer = self._state, self._state.answer
        request = generate_request(state, attempt, thinker_pb2.ThinkerSampling(temperature=0, max_tokens=1))
        request.generated_token_ids.append(answer.token_ids[0])
        request.wants_hidden_states = True
        self._used = answer.prepared
        state.leases.called(attempt)
        made: common_pb2.TensorRef | None = None
        generating = state.stages.thinker.generate(attempt.grant.address, request, state.remaining_s())
        async with aclosing(generating) as responses:
            async for response in responses:
                state.leases.began(attempt)
                if response.HasField("hidden_states"):
                    made = response.hidden_states.hidden_states
        if made is None:
            raise WorkerLost(
                "The thinker worker ended before the hidden states were there. Send the request again.", retry_after_s=1
            )
        answer.hidden_states = made


async def make_hidden_states_again(state: TurnState, missed: common_pb2.TensorRef | None) -> None:
    """Make the hidden states again, unless another thinker has sent new ones since the talker missed `missed`."""
    if state.answer.hidden_states is missed:
        await run_stage(HiddenStatesRun(state), state.leases)


def generate_request(
    state: TurnState, attempt: Attempt, sampling: thinker_pb2.ThinkerSampling
) -> thinker_pb2.GenerateRequest:
    """Build the part of a Generate call that does not depend on the answer so far."""
    prepared: preprocess_pb2.PrepareResponse = state.answer.prepared
    return thinker_pb2.GenerateRequest(
        context=state.request.context,
        lease=attempt.grant.lease,
        model=state.card.name,
        prompt_token_ids=prepared.prompt_token_ids,
        features=prepared.features,
        sampling=sampling,
    )
