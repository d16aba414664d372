"""The speech of a turn: feeds the answer's tokens to a talker as they arrive, and reads its frames and samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from services.common.errors import Fault, WorkerLost
from services.common.stages import TALKER
from services.gateway.turn.events import Speech, SpeechEnd, SpeechStarted
from services.gateway.turn.intent import SpeechOptions
from services.gateway.turn.leases import Attempt
from services.gateway.turn.prompt import TensorRef
from services.gateway.turn.run import Run
from services.gateway.turn.state import TurnState
from services.gateway.turn.think import TYPICAL_ANSWER_TOKENS, make_hidden_states_again
from services.gateway.turn.worker_calls import SpeakCall, SpeakEvent, SpeechDone, SpokenText

# While no token comes (the thinker was lost, or the client reads slowly), the talker gets an empty text this often: it
# ends calls of callers that are silent for long.
TEXT_EVERY_S = 15.0


class SpeakRun(Run[SpeechDone]):
    """Continues the speech after the answer's last frame."""

    stage = TALKER

    def __init__(self, state: TurnState, speech: SpeechOptions) -> None:
        self._state = state
        self._speech = speech
        self._used: TensorRef | None = None
        # Whether the current attempt resumes: its first frame then comes long after the text.
        self._resumes = False

    @property
    def cost(self) -> float:
        return float(self._speech.max_frames or TYPICAL_ANSWER_TOKENS)

    @property
    def known_cost(self) -> float:
        return 0.0

    @property
    def progress(self) -> int:
        return self._state.answer.frames

    async def call(self, attempt: Attempt) -> SpeechDone:
        state, answer = self._state, self._state.answer
        await answer.prompt_known.wait()
        if answer.prepared.features:  # their hidden states arrive before the first token
            await answer.tokens_after(0)
        self._used, self._resumes = answer.hidden_states, answer.speech_began
        state.leases.called(attempt, keeps=False)
        accepted = asyncio.Event()
        speaking = state.stages.talker.speak(self._call(attempt), self._texts(accepted))
        async with aclosing(speaking) as events:
            async for event in events:
                if not attempt.began:
                    state.leases.began(attempt)
                    accepted.set()
                if not await self._apply(event):
                    return SpeechDone(SpeechEnd.LENGTH, frames=answer.frames)
                if isinstance(event, SpeechDone):
                    return event  # speech may end before its text
        raise WorkerLost("The talker worker ended before the speech did. Send the request again.", retry_after_s=1)

    async def remake(self, code: str) -> None:
        await make_hidden_states_again(self._state, self._used)

    async def _texts(self, accepted: asyncio.Event) -> AsyncGenerator[SpokenText]:
        """Yield the answer's tokens once the talker has `accepted` the call.

        A gRPC client that is still writing loses the reason of a refusal. Tokens that arrived meanwhile are sent in one
        message.
        """
        answer = self._state.answer
        await accepted.wait()
        sent, ended = 0, False
        while not ended:
            try:
                async with asyncio.timeout(TEXT_EVERY_S):
                    token_ids, ended = await answer.tokens_after(sent)
            except TimeoutError:
                token_ids = []
            sent += len(token_ids)
            yield SpokenText([*token_ids, *answer.cut_token_ids] if ended else token_ids, is_last=ended)

    def _call(self, attempt: Attempt) -> SpeakCall:
        state, answer = self._state, self._state.answer
        return SpeakCall(
            grant=attempt.grant,
            failed_engines=attempt.failed_engines,
            request=state.request,
            timeout_s=state.remaining_s(),
            speech=self._speech,
            prepared=answer.prepared,
            hidden_states=answer.hidden_states,
            delivered_codes=answer.codes,
            seed=answer.speech_seed,
            spoken_again=answer.spoken_again,
        )

    async def _apply(self, event: SpeakEvent) -> bool:
        """Deliver the event. Return False where a limit ends the speech before it: the talker is to stop."""
        state, answer = self._state, self._state.answer
        match event:
            case Speech():
                if (event.first_frame, event.first_sample) != (answer.frames, answer.samples):
                    raise Fault("the talker resumed at another frame or sample than it was asked to")
                if not await state.account.take_speech(len(event.codes) // answer.codebooks):
                    return False
                answer.add_speech(event)
                state.times.speech(len(event.pcm))
                await state.events.put(event)
            case SpeechStarted():
                if answer.is_given:  # no thinker reads the prompt
                    answer.prompt_read = True
                if answer.speech_began:
                    return True
                answer.begin_speech(event)
                state.events.release()
                await state.events.put(event)
            case SpeechDone():
                answer.end_speech(event)
                state.times.spoken(event, answer.sample_rate, resumed=self._resumes)
        return True
