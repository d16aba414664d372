"""Gateway.Converse: a turn over gRPC."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, talker_pb2, thinker_pb2
from services.common.errors import BadInput, SlowBody, TooLarge
from services.common.queues.tickets import PriorityClass
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.limits import (
    MAX_ALL_PARTS,
    MAX_BIASES,
    MAX_FRAMES,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_PARTS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
    RequestLimits,
    text_too_large,
)
from services.gateway.turn.catalogue import Catalogue, check_turn, needed_stages
from services.gateway.turn.events import TurnEvent
from services.gateway.turn.playback import SpeechMeter
from services.gateway.turn.request import SpeechOptions, TurnRequest
from services.gateway.turn.turns import Turns

_ROLES = frozenset({"system", "user", "assistant"})
_MODALITIES = (
    [],
    [common_pb2.MODALITY_TEXT],
    [common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO],
)


class GatewayServicer(gateway_pb2_grpc.GatewayServicer):
    """Serves Converse. `limits.request_timeout_s` is the longest deadline, also of a call that sets none."""

    def __init__(
        self,
        turns: Turns,
        directory: ModelDirectory,
        catalogue: Catalogue,
        keys: ApiKeys,
        limits: RequestLimits,
    ) -> None:
        self._turns = turns
        self._directory = directory
        self._catalogue = catalogue
        self._keys = keys
        self._limits = limits

    async def Converse(
        self,
        request_iterator: AsyncIterator[gateway_pb2.ConverseRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> AsyncIterator[gateway_pb2.ConverseResponse]:
        arrived_s = time.monotonic()
        tenant = self._keys.tenant_of(_authorization(context))
        start, inline = await read_request(request_iterator, self._limits)
        longest_s = self._limits.request_timeout_s
        timeout_s = min(context.time_remaining() or longest_s, longest_s)
        speech = speech_from(start)
        limit = start.sampling.max_tokens if start.sampling.HasField("max_tokens") else None
        model = self._catalogue.find(await self._directory.models(), start.model or None)
        check_turn(
            model,
            start.messages,
            speech,
            limit,
            use_audio_in_video=start.use_audio_in_video,
            voice_param="voice",
            modalities_param="output_modalities",
        )
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
            is_hurried=timeout_s < longest_s,
            asleep=model.asleep & needed_stages(speech=speech is not None),
        )
        meter = SpeechMeter(model.card.sample_rate)
        async with self._turns.begin(request, model.card) as turn:
            async for event in turn.events:
                meter.note(event)
                yield response_of(event)


async def read_request(
    requests: AsyncIterator[gateway_pb2.ConverseRequest], limits: RequestLimits
) -> tuple[gateway_pb2.ConverseStart, list[bytes]]:
    """Return `start` and the inline media, once the client has half-closed the call.

    The limits are those of an HTTP body. Raise BadInput, TooLarge or SlowBody.
    """
    patience = asyncio.timeout(limits.body_timeout_s)
    try:
        async with patience:
            start = await _read_start(requests, limits)
            return start, await _read_media(requests, start, limits)
    except TimeoutError:
        if not patience.expired():  # the system's own, which is an OSError
            raise
        raise SlowBody(
            f"The request did not arrive within {limits.body_timeout_s:g} s. Half-close the call after the last chunk."
        ) from None


async def _read_start(
    requests: AsyncIterator[gateway_pb2.ConverseRequest], limits: RequestLimits
) -> gateway_pb2.ConverseStart:
    first = await anext(aiter(requests), None)
    if first is None or first.WhichOneof("part") != "start":
        raise BadInput("The first message is not `start`. Send `start` first.", param="start")
    start = first.start
    if start.ByteSize() > limits.max_text_bytes:
        raise text_too_large(limits.max_text_bytes)
    check_start(start)
    return start


async def _read_media(
    requests: AsyncIterator[gateway_pb2.ConverseRequest], start: gateway_pb2.ConverseStart, limits: RequestLimits
) -> list[bytes]:
    media: list[bytearray] = [bytearray() for _ in range(start.inline_count)]
    if not media:
        return []
    total = start.ByteSize()
    async for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise BadInput("A second `start` came. After the first, send `chunk` messages only.", param="start")
        index, data = request.chunk.inline_index, request.chunk.data
        if index >= len(media):
            raise BadInput(
                "A chunk's inline_index is not below inline_count. Count from 0.", param="chunk.inline_index"
            )
        total += len(data)
        if total > limits.max_body_bytes:
            raise TooLarge(
                f"The request is larger than {limits.max_body_bytes} bytes. Send less media.",
                param="chunk.data",
                code="request_too_large",
            )
        if len(media[index]) + len(data) > limits.max_media_bytes:
            raise TooLarge(
                f"The media of inline_index {index} is larger than {limits.max_media_bytes} bytes. Send a URL.",
                param="chunk.data",
                code="media_too_large",
            )
        media[index] += data
    for index, data in enumerate(media):
        if not data:
            raise BadInput(
                f"No bytes came for inline_index {index}. Send at least one chunk for each.",
                param="chunk.data",
                code="empty_media",
            )
    # One at a time, so that there are never two copies of everything.
    return [bytes(media.pop(0)) for _ in range(len(media))]


def check_start(start: gateway_pb2.ConverseStart) -> None:
    """Refuse what the HTTP schema refuses. Raise BadInput."""
    if not start.messages:
        raise BadInput("There are no messages. Send at least one.", param="messages")
    if list(start.output_modalities) not in _MODALITIES:
        raise BadInput("Send MODALITY_TEXT, or MODALITY_TEXT and MODALITY_AUDIO.", param="output_modalities")
    if start.inline_count > 1024:
        raise BadInput("inline_count is larger than 1024. Send fewer media.", param="inline_count")
    if not PriorityClass.LOWEST <= start.priority <= PriorityClass.ORDINARY:
        raise BadInput(
            f"priority must be from {int(PriorityClass.LOWEST)} to {int(PriorityClass.ORDINARY)}.", param="priority"
        )
    if len(start.messages) > MAX_MESSAGES:
        raise BadInput(f"There are too many messages. Send at most {MAX_MESSAGES}.", param="messages")
    _check_lengths(start)
    if sum(len(message.parts) for message in start.messages) > MAX_ALL_PARTS:
        raise BadInput(f"The messages hold too many parts. Send at most {MAX_ALL_PARTS}.", param="messages")
    for i, message in enumerate(start.messages):
        path = f"messages[{i}]"
        if message.role not in _ROLES:
            raise BadInput(f"role must be one of {', '.join(sorted(_ROLES))}.", param=f"{path}.role")
        if not message.parts:
            raise BadInput("The message has no parts. Send at least one.", param=f"{path}.parts")
        if len(message.parts) > MAX_PARTS:
            raise BadInput(f"The message has too many parts. Send at most {MAX_PARTS}.", param=f"{path}.parts")
        for j, part in enumerate(message.parts):
            part.path = f"{path}.parts[{j}]"
            for source in _sources(part):
                _check_source(source, part.path, start.inline_count)


def _check_lengths(start: gateway_pb2.ConverseStart) -> None:
    sampling = start.sampling
    for param, length, most, what in (
        ("model", len(start.model), MAX_NAME_CHARS, "characters"),
        ("voice", len(start.voice), MAX_NAME_CHARS, "characters"),
        ("conversation_id", len(start.conversation_id), MAX_NAME_CHARS, "characters"),
        ("sampling.stop", len(sampling.stop), MAX_STOPS, "items"),
        ("sampling.stop_token_ids", len(sampling.stop_token_ids), MAX_STOP_TOKEN_IDS, "items"),
        ("sampling.logit_bias", len(sampling.logit_bias), MAX_BIASES, "items"),
    ):
        if length > most:
            raise BadInput(f"Invalid '{param}': send at most {most} {what}.", param=param)


def _sources(part: preprocess_pb2.Part) -> list[preprocess_pb2.MediaSource]:
    match part.WhichOneof("content"):
        case "image":
            return [part.image.source]
        case "audio":
            return [part.audio.source]
        case "video":
            video = part.video
            if video.HasField("source") == bool(video.frames):
                raise BadInput("The video needs either `source` or `frames`, not both.", param=part.path)
            if len(video.frames) > MAX_FRAMES:
                raise BadInput(f"The video has too many frames. Send at most {MAX_FRAMES}.", param=part.path)
            return [video.source] if video.HasField("source") else list(video.frames)
        case "text":
            return []
        case None:
            raise BadInput("The part is empty. Set text, image, audio or video.", param=part.path)


def _check_source(source: preprocess_pb2.MediaSource, path: str, inline_count: int) -> None:
    kind = source.WhichOneof("source")
    if kind is None:
        raise BadInput("The media has no source. Set url, inline_index or local_path.", param=path)
    if kind == "inline_index" and source.inline_index >= inline_count:
        raise BadInput("inline_index is not below inline_count. Count from 0.", param=path)
    if kind == "url" and not source.url.lower().startswith(("http://", "https://")):
        raise BadInput("The URL is not http(s). Send an http(s) URL, or the bytes as an inline chunk.", param=path)


def speech_from(start: gateway_pb2.ConverseStart) -> SpeechOptions | None:
    if common_pb2.MODALITY_AUDIO not in start.output_modalities:
        return None
    return SpeechOptions(
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
