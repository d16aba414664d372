"""Reads and checks the messages of a Converse call: the same limits as over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

from antiphon.v1 import common_pb2, gateway_pb2, preprocess_pb2
from services.common.errors import BadInput, TooLarge
from services.common.queues.tickets import PriorityClass
from services.gateway.client_time import ClientTime
from services.gateway.http.chat.tools.schema import MAX_CALLS
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
from services.gateway.memory import RequestMemory

# `start` as a message of the domain, whose text takes up to four bytes a character, and once more for the stages.
_TEXT_COPIES = 5
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool"})
_MODALITIES = (
    [],
    [common_pb2.MODALITY_TEXT],
    [common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO],
)


async def read_request(
    requests: AsyncIterator[gateway_pb2.ConverseRequest], limits: RequestLimits, memory: RequestMemory
) -> tuple[gateway_pb2.ConverseStart, list[bytearray]]:
    """Return `start` and the inline media, once the client has half-closed the call.

    The limits are those of an HTTP body. A message counts with all that it may take before it is read: its size is not
    known. Raise BadInput, TooLarge, Capacity or SlowBody. Waiting for room is not the client's time.
    """
    message_bytes = 2 * limits.max_message_bytes  # as it came, and parsed
    most_bytes = message_bytes + _TEXT_COPIES * limits.max_text_bytes + limits.max_body_bytes
    await memory.take(message_bytes, most_bytes=min(most_bytes, memory.total_bytes), what="The request")
    slow = f"The request did not arrive within {limits.body_timeout_s:g} s. Half-close the call after the last chunk."
    async with ClientTime(limits.body_timeout_s, slow) as time:
        start = await _read_start(requests, limits)
        held_bytes = message_bytes + _TEXT_COPIES * start.ByteSize()

        async def grow(media_bytes: int) -> None:
            with time.ours():
                await memory.grow_to(held_bytes + media_bytes)

        await grow(0)
        return start, await _read_media(requests, start, limits, grow)


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
    requests: AsyncIterator[gateway_pb2.ConverseRequest],
    start: gateway_pb2.ConverseStart,
    limits: RequestLimits,
    grow: Callable[[int], Awaitable[None]],
) -> list[bytearray]:
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
        await grow(total)
        media[index] += data
    for index, data in enumerate(media):
        if not data:
            raise BadInput(
                f"No bytes came for inline_index {index}. Send at least one chunk for each.",
                param="chunk.data",
                code="empty_media",
            )
    return media


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
        if message.tool_calls and message.role != "assistant":
            raise BadInput("Only an assistant calls tools. Leave tool_calls out.", param=f"{path}.tool_calls")
        if len(message.tool_calls) > MAX_CALLS:
            raise BadInput(f"There are too many calls. Send at most {MAX_CALLS}.", param=f"{path}.tool_calls")
        if not message.parts and not message.tool_calls:
            raise BadInput("The message has no parts. Send at least one.", param=f"{path}.parts")
        if len(message.parts) > MAX_PARTS:
            raise BadInput(f"The message has too many parts. Send at most {MAX_PARTS}.", param=f"{path}.parts")
        for j, part in enumerate(message.parts):
            place = f"{path}.parts[{j}]"
            for source in _sources(part, place):
                _check_source(source, place, start.inline_count)


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


def _sources(part: preprocess_pb2.Part, path: str) -> list[preprocess_pb2.MediaSource]:
    match part.WhichOneof("content"):
        case "image":
            return [part.image.source]
        case "audio":
            return [part.audio.source]
        case "video":
            video = part.video
            if video.HasField("source") == bool(video.frames):
                raise BadInput("The video needs either `source` or `frames`, not both.", param=path)
            if len(video.frames) > MAX_FRAMES:
                raise BadInput(f"The video has too many frames. Send at most {MAX_FRAMES}.", param=path)
            return [video.source] if video.HasField("source") else list(video.frames)
        case "text":
            return []
        case None:
            raise BadInput("The part is empty. Set text, image, audio or video.", param=path)


def _check_source(source: preprocess_pb2.MediaSource, path: str, inline_count: int) -> None:
    kind = source.WhichOneof("source")
    if kind is None:
        raise BadInput("The media has no source. Set url, inline_index or local_path.", param=path)
    if kind == "inline_index" and source.inline_index >= inline_count:
        raise BadInput("inline_index is not below inline_count. Count from 0.", param=path)
    if kind == "url" and not source.url.lower().startswith(("http://", "https://")):
        raise BadInput("The URL is not http(s). Send an http(s) URL, or the bytes as an inline chunk.", param=path)
