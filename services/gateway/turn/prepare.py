"""The first stage of a turn: a preprocess worker turns messages and media into token ids and features."""

from __future__ import annotations

from opentelemetry import trace

from antiphon.v1 import gateway_pb2, preprocess_pb2
from services.common.errors import BadInput
from services.common.stages import PREPROCESS
from services.gateway.turn.catalogue import check_length
from services.gateway.turn.leases import Attempt
from services.gateway.turn.run import Run, run_stage
from services.gateway.turn.state import TurnState

tracer = trace.get_tracer("antiphon")


class PrepareRun(Run):
    stage = PREPROCESS

    def __init__(self, state: TurnState) -> None:
        self._state = state

    @property
    def cost(self) -> float:
        return 1.0 + sum(map(len, self._state.request.inline)) / 1e6

    @property
    def progress(self) -> int:
        return 0  # a prompt is complete or missing

    @property
    def resumes(self) -> bool:
        return bool(self._state.answer.prepared.prompt_token_ids)

    async def call(self, attempt: Attempt) -> None:
        state, request = self._state, self._state.request
        start = preprocess_pb2.PrepareStart(
            context=request.context,
            lease=attempt.grant.lease,
            model=state.card.name,
            messages=request.messages,
            use_audio_in_video=request.use_audio_in_video,
        )
        state.leases.called(attempt)
        prepared = await state.stages.preprocess.prepare(
            attempt.grant.address, start, request.inline, state.remaining_s()
        )
        state.leases.began(attempt)
        before = state.answer.prepared
        if before.prompt_token_ids and before.prompt_token_ids != prepared.prompt_token_ids:
            raise BadInput(
                "A media URL of this request gave another file when it was fetched again. Send the request again.",
                param="messages",
                code="media_changed",
            )
        state.answer.prepared = prepared


async def prepare(state: TurnState) -> None:
    """Prepare the prompt, and tell the listener that the turn has started. Raise ContextTooLong."""
    with tracer.start_as_current_span("antiphon.gateway.prepare"):
        await run_stage(PrepareRun(state), state.leases)
    state.times.prepared()
    request, prepared = state.request, state.answer.prepared
    limit = request.sampling.max_tokens if request.sampling.HasField("max_tokens") else None
    check_length(state.card, len(prepared.prompt_token_ids), limit)
    await state.events.put(
        gateway_pb2.ConverseStarted(request_id=request.context.request_id, prompt_token_ids=prepared.prompt_token_ids)
    )


async def prepare_again(state: TurnState, missed: preprocess_pb2.PrepareResponse) -> None:
    """Make the features of `missed` again, unless another run has already done so."""
    async with state.remaking:
        if state.answer.prepared is missed:
            await run_stage(PrepareRun(state), state.leases)
