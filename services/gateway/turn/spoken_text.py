"""The requests to the talker: the prompt with its media, then the answer's tokens as they are generated."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from antiphon.v1 import common_pb2, talker_pb2
from services.common.queues.tickets import Grant
from services.gateway.turn.answer import Answer
from services.gateway.turn.request import SpeechRequest, TurnRequest


async def speak_requests(
    request: TurnRequest, speech: SpeechRequest, grant: Grant, answer: Answer, accepted: asyncio.Event
) -> AsyncGenerator[talker_pb2.SpeakRequest]:
    """Yield the start and, once the talker has `accepted` it, the text.

    A refusal would lose its reason in gRPC if it met a client that is sending. Tokens that came meanwhile are sent
    together.
    """
    prepared = answer.prepared
    yield talker_pb2.SpeakRequest(
        start=talker_pb2.SpeakStart(
            context=request.context,
            lease=grant.lease,
            model=request.model,
            prompt_token_ids=prepared.prompt_token_ids,
            image_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_IMAGE],
            video_grids=[f.grid for f in prepared.features if f.modality == common_pb2.MODALITY_VIDEO],
            hidden_states=answer.hidden_states,
            voice=speech.voice,
            sampling=speech.sampling,
            max_frames=speech.max_frames,
            use_audio_in_video=request.use_audio_in_video,
        )
    )
    await accepted.wait()
    sent, ended = 0, False
    while not ended:
        token_ids, ended = await answer.tokens_after(sent)
        sent += len(token_ids)
        yield talker_pb2.SpeakRequest(text=talker_pb2.SpokenText(token_ids=token_ids, is_last=ended))
