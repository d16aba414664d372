"""The speech of a turn: feeds the answer's tokens to a talker as they arrive, and reads its frames and samples."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

from antiphon.v1 import common_pb2, talker_pb2
from services.common.errors import Fault, WorkerLost
from services.common.stages import TALKER
from services.gateway.turn.leases import Attempt
from services.gateway.turn.request import SpeechOptions
from services.gateway.turn.run import Run
from services.gateway.turn.state import TurnState
from services.gateway.turn.think import TYPICAL_ANSWER_TOKENS, make_hidden_states_again

# While no token comes (the thinker was lost, or the client reads slowly), the talker gets an empty text this often: it
# ends calls of callers that are silent for long.
TEXT_EVERY_S = 15.0


class SpeakRun(Run):
    """Continues the speech after the answer's last frame."""

    stage = TALKER

    def __init__(self, state: TurnState, speech: SpeechOptions) -> None:
        self._state = state
        self._speech = speech
        self._used: common_pb2.TensorRef | None = None
        # Whether the current attempt resumes: its first frame then comes long after the text.
        self._resumes = False

    @property
    def cost(self) -> float:
        return float(self._speech.max_frames or TYPICAL_ANSWER_TOKENS)

    @property
    def progress(self) -> int:
        return self._state.answer.frames

    async def call(self, attempt: Attempt) -> None:
        state, answer = self._state, self._state.answer
        if answer.prepared.features:  # their hidden states arrive before the first token
            await answer.tokens_after(0)
        self._used, self._resumes = answer.hidden_states, answer.speech_began
        state.leases.called(attempt)
        accepted = asyncio.Event()
        requests = self._requests(attempt, accepted)
        speaking = state.stages.talker.speak(attempt.grant.address, requests, state.remaining_s())
        async with aclosing(speaking) as responses:
            async for response in responses:
                state.leases.began(attempt)
                accepted.set()
                await self._apply(response)
                if response.HasField("done"):
                    return  # speech may end before its text
        raise WorkerLost("The talker worker ended before the speech did. Send the request again.", retry_after_s=1)

    async def remake(self, code: str) -> None:
        await make_hidden_states_again(self._state, self._used)

    async def _requests(self, attempt: Attempt, accepted: asyncio.Event) -> AsyncGenerator[talker_pb2.SpeakRequest]:
        """Yield the start and, once the talker has `accepted` it, the answer's tokens.

        A gRPC client that is still writing loses the reason of a refusal. Tokens that arrived meanwhile are sent in one
        message.
        """
        answer = self._state.answer
        yield talker_pb2.SpeakRequest(start=self._start(attempt))
        await accepted.wait()
        sent, ended = 0, False
        while not ended:
            try:
                async with asyncio.timeout(TEXT_EVERY_S):
                    token_ids, ended = await answer.tokens_after(sent)
            except TimeoutError:
                token_ids = []
            sent += len(token_ids)
            yield talker_pb2.SpeakRequest(text=talker_pb2.SpokenText(token_ids=token_ids, is_last=ended))

    def _start(self, attempt: Attempt) -> talker_pb2.SpeakStart:
        request, answer, speech = self._state.request, self._state.answer, self._speech
        prepared = answer.prepared
        start = talker_pb2.SpeakStart(
            context=request.context,
            lease=attempt.grant.lease,
            model=request.model,
            prompt_token_ids=prepared.prompt_token_ids,
            image_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_IMAGE],
            video_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_VIDEO],
            hidden_states=answer.hidden_states,
            voice=speech.voice,
            sampling=speech.sampling,
            max_frames=speech.max_frames,
            delivered_codes=answer.codes,
            use_audio_in_video=request.use_audio_in_video,
        )
        if answer.speech_seed is not None:  # the first talker may have chosen it
            start.sampling.seed = answer.speech_seed
        return start

    async def _apply(self, response: talker_pb2.SpeakResponse) -> None:
        state, answer = self._state, self._state.answer
        match response.WhichOneof("event"):
            case "started":
                if answer.speech_began:
                    return
                answer.begin_speech(response.started)
                state.events.release()
                await state.events.put(response.started)
            case "speech":
                speech = response.speech
                if (speech.first_frame, speech.first_sample) != (answer.frames, answer.samples):
                    raise Fault("the talker resumed at another frame or sample than it was asked to")
                answer.add_speech(speech)
                state.times.speech(len(speech.pcm))
                await state.events.put(speech)
            case "done":
                answer.spoken = response.done
                state.times.spoken(response.done, answer.sample_rate, resumed=self._resumes)
            case None:
                pass
