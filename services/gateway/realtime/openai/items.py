"""Items of the API, from the client and for it."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

from pydantic_core import from_json

from services.common.errors import BadInput, TooLarge
from services.gateway.inline_media import EncodedMedia, InlineMedia, decode_all
from services.gateway.realtime.audio.formats import AudioFormat, AudioReader, AudioWriter
from services.gateway.realtime.conversation import (
    AudioContent,
    CallContent,
    CallOutputContent,
    Content,
    FilmContent,
    ImageContent,
    Item,
    SpeechContent,
    TextContent,
    new_id,
    wav_of,
)
from services.gateway.realtime.input_buffer import check_samples
from services.gateway.realtime.openai.schema import (
    AnyItem,
    AudioPart,
    CallItem,
    CallOutputItem,
    ImagePart,
    SpokenPart,
    TextPart,
)
from services.gateway.turn.conversation import InlineSource

# More media than this is not sent back to a client that retrieves its item.
_MOST_SENT_BACK_BYTES = 1 << 20
# More audio than this is made samples in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 14


async def pcm_from(encoded: str, param: str, max_bytes: int, reader: AudioReader) -> bytes | bytearray:
    """Decode samples of the client's format. `max_bytes`: of the session's. Raise BadInput or TooLarge."""
    if not encoded:
        raise BadInput(f"Invalid '{param}': the audio is empty.", param=param, code="empty_media")
    if len(encoded) // 4 * 3 * reader.growth > max_bytes + 2 * reader.growth:
        raise TooLarge(f"Invalid '{param}': the audio is larger than {max_bytes} bytes.", param=param)
    (data,) = await decode_all([EncodedMedia(param, encoded)])
    if reader.format.is_pcm:
        check_samples(data, param, reader.format.rate)
    if len(data) > _SMALL_BYTES:
        return await asyncio.to_thread(reader.read, data)
    return reader.read(data)


async def item_from(given: AnyItem, path: str, max_media_bytes: int, audio_format: AudioFormat) -> Item:
    """Return the item with its media decoded. Raise BadInput or TooLarge that names the part."""
    match given:
        case CallItem():
            arguments = _arguments(given.arguments, f"{path}.arguments")
            item = Item("assistant", [CallContent(given.call_id or new_id("call"), given.name, arguments)])
        case CallOutputItem():
            item = Item("tool", [CallOutputContent(given.call_id, given.output)])
        case _:
            contents = [
                await _content(part, f"{path}.content[{i}]", max_media_bytes, audio_format)
                for i, part in enumerate(given.content)
            ]
            item = Item(given.role, contents)
    if given.id is not None:
        item.id = given.id
    return item


def _arguments(text: str, path: str) -> str:
    """Return the arguments of a call; "" = none. Raise BadInput where they are not an object."""
    try:
        parsed = from_json(text or "{}")
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise BadInput(f"Invalid '{path}': it is not the text of a JSON object. Send '{{}}' for none.", param=path)
    return text or "{}"


async def _content(
    part: TextPart | AudioPart | ImagePart | SpokenPart, path: str, max_bytes: int, audio_format: AudioFormat
) -> Content:
    match part:
        case TextPart():
            return TextContent(part.text)
        case SpokenPart():
            return TextContent(part.transcript)
        case AudioPart():
            pcm = await pcm_from(part.audio, f"{path}.audio", max_bytes, AudioReader(audio_format))
            return AudioContent(wav_of(pcm), part.transcript)
        case ImagePart():
            inline = InlineMedia(max_bytes)
            source = inline.source(part.image_url, f"{path}.image_url")
            if isinstance(source, InlineSource):
                (data,) = await inline.decode()
                return ImageContent(bytes(data), source.declared_format)
            return ImageContent(source, url=part.image_url)


def item_object(item: Item, media_format: AudioFormat | None = None) -> dict[str, Any]:
    """Return the item. `media_format`: of the audio that is sent back with it, and images too; None = without media."""
    head = {"id": item.id, "object": "realtime.item"}
    match item.contents:
        case [CallContent(call_id, name, arguments)]:
            call = {"call_id": call_id, "name": name, "arguments": arguments}
            return {**head, "type": "function_call", "status": item.status.value, **call}
        case [CallOutputContent(call_id, output)]:
            shown = {"call_id": call_id, "output": output}
            return {**head, "type": "function_call_output", "status": item.status.value, **shown}
        case contents:
            parts = [_part_object(content, item.role, media_format) for content in contents]
            return {**head, "type": "message", "status": item.status.value, "role": item.role, "content": parts}


def _part_object(content: Content, role: str, media_format: AudioFormat | None) -> dict[str, Any]:
    match content:
        case TextContent():
            return {"type": "output_text" if role == "assistant" else "input_text", "text": content.text}
        case SpeechContent():
            return {"type": "output_audio", "transcript": content.spoken.heard_text}
        case AudioContent():
            part: dict[str, Any] = {"type": "input_audio", "transcript": content.transcript}
            if media_format is not None and len(content.wav) <= _MOST_SENT_BACK_BYTES:
                part["audio"] = base64.b64encode(AudioWriter(media_format).write(content.pcm)).decode()
            return part
        case FilmContent():
            return {"type": "input_video"}
        case CallContent() | CallOutputContent():
            raise AssertionError("a call is the only content of its item")
        case ImageContent():
            part = {"type": "input_image"}
            if content.url is not None:
                part["image_url"] = content.url
            elif (
                media_format is not None
                and isinstance(data := content.source, bytes)
                and len(data) <= _MOST_SENT_BACK_BYTES
            ):
                declared = content.declared_format or "image/png"
                part["image_url"] = f"data:{declared};base64,{base64.b64encode(data).decode()}"
            return part
