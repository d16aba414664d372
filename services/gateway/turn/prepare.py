"""The first stage of a turn: a preprocess worker turns messages and media into token ids and features.

A short text needs none: the thinker renders it itself.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from services.common.errors import BadInput, Gone, Unavailable
from services.common.stages import PREPROCESS
from services.common.telemetry.tracing import span
from services.gateway.turn.checks import check_length
from services.gateway.turn.events import TurnStarted
from services.gateway.turn.leases import Attempt
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.run import Run, run_stage
from services.gateway.turn.state import TurnState
from services.gateway.turn.truncate import fit
from services.gateway.turn.worker_calls import PrepareCall

_FILE_S = 0.1
"""Seconds of decoding that cost as much as a request itself: a photograph, a megabyte."""


def cost_of(prepared: Prepared) -> float:
    """Return what preparing the prompt cost, in the unit of its tickets. These are charged by the bytes that a request
    brings, as no header has been read by then: nothing for a URL."""
    return 1.0 + cost_of_decoding(prepared.decode_price_s)


def cost_of_decoding(price_s: float) -> float:
    """Return the same of decoding alone, which may have been in vain."""
    return price_s / _FILE_S


class PrepareRun(Run[Prepared]):
    stage = PREPROCESS

    def __init__(self, state: TurnState) -> None:
        self._state = state

    @property
    def cost(self) -> float:
        return 1.0 + self._state.request.intent.inline.total_bytes / 1e6

    @property
    def progress(self) -> int:
        return 0  # a prompt is complete or missing

    @property
    def resumes(self) -> bool:
        return bool(self._state.answer.prepared.token_ids)

    async def call(self, attempt: Attempt) -> Prepared:
        state = self._state
        state.leases.called(attempt, keeps=state.request.intent.holds_media)
        call = PrepareCall(attempt.grant, state.request, state.remaining_s())
        try:
            prepared = await state.stages.preprocess.prepare(call)
        except (Unavailable, Gone):
            raise  # it may not have begun
        except BaseException:
            # Fetched and decoded in vain, or cancelled before it could say what it cost.
            attempt.spent = True
            raise
        state.leases.began(attempt)
        before = state.answer.prepared
        if before.token_ids:
            self._check_again(before, prepared)
        # What is cached by now was not read again, and what is not was decoded twice.
        prepared = replace(
            prepared,
            media_bytes=max(prepared.media_bytes, before.media_bytes),
            decode_price_s=prepared.decode_price_s + before.decode_price_s,
        )
        state.answer.prepared = prepared
        state.request.intent.inline.leave_memory()
        return prepared

    def _check_again(self, before: Prepared, prepared: Prepared) -> None:
        """Check a prompt that was prepared again. Raise BadInput where its media is another one.

        Another version of preprocess makes other features of the same media. An answer never mixes both: before the
        prompt was read the new ones take the place of the old; then only a worker of the old version helps, and where
        there is none Unavailable tells so.
        """
        same_tokens = before.token_ids == prepared.token_ids
        if same_tokens and _hashes(before) == _hashes(prepared):
            return
        if before.fingerprint == prepared.fingerprint:
            raise BadInput(
                "A media URL of this request gave another file when it was fetched again. Send the request again.",
                param=self._state.request.intent.names.messages,
                code="media_changed",
            )
        if not same_tokens or self._state.answer.features_read:
            raise Unavailable(
                "The features of this request's media were lost while its servers are being upgraded, and those of the"
                " new version do not fit the begun answer. Send the request again.",
                code="features_changed",
                retry_after_s=1,
            )


def _hashes(prepared: Prepared) -> list[str]:
    return [feature.hash for feature in prepared.features]


async def prepare(state: TurnState) -> None:
    """Prepare the prompt, and begin the turn with it. Raise ContextTooLong."""
    with span("antiphon.gateway.prepare"):
        if state.request.intent.drops_oldest:
            before = len(state.request.intent.messages)
            state.request, prepared = await fit(state.request, partial(_prepare_anew, state))
            prepared = _with_price_of(state.answer.prepared, prepared)
            state.dropped_messages = before - len(state.request.intent.messages)
        else:
            prepared = await run_stage(PrepareRun(state), state.leases)
    state.times.prepared()
    await begin(state, prepared)


async def _prepare_anew(state: TurnState, request: TurnRequest) -> Prepared:
    """Return the prompt of `request`, which takes the place of the turn's own."""
    state.request, state.answer.prepared = request, _with_price_of(state.answer.prepared, Prepared())
    return await run_stage(PrepareRun(state), state.leases)


def _with_price_of(last: Prepared, prepared: Prepared) -> Prepared:
    """Return the prompt with what decoding cost for all until the last: media that they share was cached after the
    first."""
    return replace(prepared, decode_price_s=last.decode_price_s)


async def begin(state: TurnState, prepared: Prepared) -> None:
    """Take the prompt, and tell the listener that the turn has started. Raise ContextTooLong, and what taking it from
    the turn's account raises."""
    request, intent, answer = state.request, state.request.intent, state.answer
    check_length(intent.names, request.model, len(prepared.token_ids), intent.sampling.max_tokens)
    await state.account.take_prompt(prepared)
    answer.prepared = prepared
    answer.prompt_known.set()
    await state.events.put(TurnStarted(request.request_id, prepared.token_ids))


async def prepare_again(state: TurnState, missed: Prepared) -> None:
    """Make the features of `missed` again, unless another run has already done so."""
    async with state.remaking:
        if state.answer.prepared is missed:
            await run_stage(PrepareRun(state), state.leases)
