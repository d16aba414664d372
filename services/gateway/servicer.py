"""Gateway.Converse: the turn over gRPC."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import BadInput, TooLarge
from services.common.queues.tickets import PriorityClass
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.text_bytes import check_text_bytes
from services.gateway.turn.bounds import MAX_ALL_PARTS, MAX_FRAMES, MAX_MESSAGES, MAX_PARTS
from services.gateway.turn.catalogue import Catalogue, check_turn, needed_stages
from services.gateway.turn.events import TurnEvent
from services.gateway.turn.playback import SpeechMeter
from services.gateway.turn.request import SpeechRequest, TurnRequest
from services.gateway.turn.turns import Turns

_ROLES = frozenset({"system", "user", "assistant"})
_MODALITIES = (
    [],
    [common_pb2.MODALITY_TEXT],
    [common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO],
)


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """`request_timeout_s` bounds a call that comes without a deadline, and one that asks for more."""

    def __init__(
        self,
        turns: Turns,
        directory: ModelDirectory,
        catalogue: Catalogue,
        keys: ApiKeys,
        *,
        request_timeout_s: float,
        max_inline_bytes: int,
        max_text_bytes: int,
    ) -> None:
        self._turns = turns
        self._directory = directory
        self._catalogue = catalogue
        self._keys = keys
        self._request_timeout_s = request_timeout_s
        self._max_inline_bytes = max_inline_bytes
        self._max_text_bytes = max_text_bytes

    async def Converse(
        self,
        request_iterator: AsyncIterator[gateway_pb2.ConverseRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[gateway_pb2.ConverseResponse]:
        arrived_s = time.monotonic()
        tenant = self._keys.tenant_of(_authorization(context))
        start, inline = await read_request(request_iterator, self._max_inline_bytes, self._max_text_bytes)
        timeout_s = min(context.time_remaining() or self._request_timeout_s, self._request_timeout_s)
        speech = speech_from(start)
        limit = start.sampling.max_tokens if start.sampling.HasField("max_tokens") else None
        model = self._catalogue.find(await self._directory.models(), start.model or None)
        check_turn(model, start.messages, speech, limit, voice_param="voice", modalities_param="output_modalities")
        request = TurnRequest(
            context=common_pb2.RequestContext(
                request_id="req_" + secrets.token_hex(16),
                tenant=tenant.name,
                priority=start.priority,
                deadline_unix_ms=round((time.time() + timeout_s) * 1000),
                affinity=start.conversation_id,
            ),
            tenant_label=tenant.label,
            model=model.card.name,
            messages=start.messages,
            inline=inline,
            use_audio_in_video=start.use_audio_in_video,
            sampling=start.sampling,
            speech=speech,
            arrived_s=arrived_s,
            is_hurried=timeout_s < self._request_timeout_s,
            asleep=model.asleep & needed_stages(speech=speech is not None),
        )
        meter = SpeechMeter(model.card.sample_rate)
        async with self._turns.begin(request, model.card) as turn:
            async for event in turn.events:
                meter.note(event)
                yield response_of(event)


async def read_request(
    requests: AsyncIterator[gateway_pb2.ConverseRequest], max_inline_bytes: int, max_text_bytes: int
) -> tuple[gateway_pb2.ConverseStart, list[bytes]]:
    """`start`, and the inline media once the sending side is closed. Raises BadInput or TooLarge."""
    first = await anext(aiter(requests), None)
    if first is None or first.WhichOneof("part") != "start":
        raise BadInput("The first message must be `start`.", param="start")
    start = first.start
    check_text_bytes(start.messages, max_text_bytes)
    check_start(start)
    pieces: list[bytearray] = [bytearray() for _ in range(start.inline_count)]
    if pieces:
        total = 0
        async for request in requests:
            if request.WhichOneof("part") != "chunk":
                raise BadInput("After `start` only `chunk` messages may come.", param="start")
            index = request.chunk.inline_index
            if index >= len(pieces):
                raise BadInput("A chunk's inline_index is not below inline_count.", param="chunk.inline_index")
            total += len(request.chunk.data)
            if total > max_inline_bytes:
                raise TooLarge(f"The inline media is larger than {max_inline_bytes} bytes.", param="chunk.data")
            pieces[index] += request.chunk.data
    for index, piece in enumerate(pieces):
        if not piece:
            raise BadInput(f"No bytes came for inline_index {index}.", param="chunk.data", code="empty_media")
    return start, [bytes(piece) for piece in pieces]


def check_start(start: gateway_pb2.ConverseStart) -> None:
    """What HTTP's schema refuses, refused here. Raises BadInput."""
    if not start.messages:
        raise BadInput("At least one message is needed.", param="messages")
    if list(start.output_modalities) not in _MODALITIES:
        raise BadInput("Either text, or text and audio.", param="output_modalities")
    if start.inline_count > 1024:
        raise BadInput("inline_count is over 1024.", param="inline_count")
    if not PriorityClass.LOWEST <= start.priority <= PriorityClass.ORDINARY:
        raise BadInput(
            f"priority must be from {int(PriorityClass.LOWEST)} to {int(PriorityClass.ORDINARY)}.", param="priority"
        )
    if len(start.messages) > MAX_MESSAGES:
        raise BadInput(f"There may be at most {MAX_MESSAGES} messages.", param="messages")
    if sum(len(message.parts) for message in start.messages) > MAX_ALL_PARTS:
        raise BadInput(f"There may be at most {MAX_ALL_PARTS} parts.", param="messages")
    for i, message in enumerate(start.messages):
        path = f"messages[{i}]"
        if message.role not in _ROLES:
            raise BadInput(f"role must be one of {', '.join(sorted(_ROLES))}.", param=f"{path}.role")
        if not message.parts:
            raise BadInput("A message needs at least one part.", param=f"{path}.parts")
        if len(message.parts) > MAX_PARTS:
            raise BadInput(f"A message may hold at most {MAX_PARTS} parts.", param=f"{path}.parts")
        for j, part in enumerate(message.parts):
            part.path = f"{path}.parts[{j}]"
            for source in _sources(part):
                _check_source(source, part.path, start.inline_count)


def _sources(part: preprocess_pb2.Part) -> list[preprocess_pb2.MediaSource]:
    match part.WhichOneof("content"):
        case "image":
            return [part.image.source]
        case "audio":
            return [part.audio.source]
        case "video":
            video = part.video
            if video.HasField("source") == bool(video.frames):
                raise BadInput("A video is either one source or a list of frames.", param=part.path)
            if len(video.frames) > MAX_FRAMES:
                raise BadInput(f"A video may hold at most {MAX_FRAMES} frames.", param=part.path)
            return [video.source] if video.HasField("source") else list(video.frames)
        case "text":
            return []
        case None:
            raise BadInput("A part needs a content.", param=part.path)


def _check_source(source: preprocess_pb2.MediaSource, path: str, inline_count: int) -> None:
    kind = source.WhichOneof("source")
    if kind is None:
        raise BadInput("A media part needs a source.", param=path)
    if kind == "inline_index" and source.inline_index >= inline_count:
        raise BadInput("inline_index is not below inline_count.", param=path)
    if kind == "url" and not source.url.lower().startswith(("http://", "https://")):
        raise BadInput("url must be an http(s) URL.", param=path)


def speech_from(start: gateway_pb2.ConverseStart) -> SpeechRequest | None:
    if common_pb2.MODALITY_AUDIO not in start.output_modalities:
        return None
    return SpeechRequest(
        voice=start.voice,
        sampling=start.talker,
        max_frames=start.max_frames if start.HasField("max_frames") else None,
    )


def response_of(event: TurnEvent) -> gateway_pb2.ConverseResponse:
    match event:
        case gateway_pb2.ConverseStarted():
            return gateway_pb2.ConverseResponse(started=event)
        case thinker_pb2.GeneratedText():
            return gateway_pb2.ConverseResponse(text=event)
        case talker_pb2.SpeakStarted():
            return gateway_pb2.ConverseResponse(speech_started=event)
        case talker_pb2.Speech():
            return gateway_pb2.ConverseResponse(speech=event)
        case gateway_pb2.ConverseDone():
            return gateway_pb2.ConverseResponse(done=event)


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> bytes | None:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization":
            return value if isinstance(value, bytes) else value.encode()
    return None
