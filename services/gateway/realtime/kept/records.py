"""The items of a session, and the audio that is in none yet, as bytes: JSON, and the media that it refers to. Pure.

4 bytes: length of the JSON · the JSON · 4 bytes: length of a media · the media · …
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from services.gateway.realtime.conversation import (
    AudioContent,
    CallContent,
    CallOutputContent,
    Content,
    FilmContent,
    ImageContent,
    Item,
    ItemStatus,
    SpeechContent,
    TextContent,
)
from services.gateway.realtime.input_buffer import Uncommitted
from services.gateway.realtime.input_frames import Frame
from services.gateway.realtime.spoken import Spoken
from services.gateway.turn.conversation import FileSource, UrlSource

Json = dict[str, Any]
_LENGTH = struct.Struct(">I")


def record_of(item: Item) -> bytes:
    media: list[bytes] = []
    contents = [_described(content, media) for content in item.contents]
    head = {"id": item.id, "role": item.role, "status": item.status.value, "contents": contents}
    return _joined([json.dumps(head, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass"), *media])


def item_of(record: bytes) -> Item:
    """Return the item. One that was being made is as it was when that ended."""
    chunks = _chunks(record)
    head: Json = json.loads(next(chunks).decode(errors="surrogatepass"))
    contents = [_content(described, chunks) for described in head["contents"]]
    item = Item(head["role"], contents, head["id"], ItemStatus(head["status"]))
    if item.status is ItemStatus.IN_PROGRESS:
        item.status = ItemStatus.INCOMPLETE
        for content in item.contents:
            if isinstance(content, SpeechContent):
                content.spoken.interrupt(0.0)  # more text was made than was said
    return item


def uncommitted_record(held: Uncommitted) -> bytes:
    head = {"frames": [{"size": frame.size, "at": frame.at} for frame in held.frames]}
    return _joined([json.dumps(head).encode(), held.pcm, *(frame.jpeg for frame in held.frames)])


def uncommitted_of(record: bytes) -> Uncommitted:
    head, pcm, *jpegs = _chunks(record)
    frames = [
        Frame(jpeg, (frame["size"][0], frame["size"][1]), frame["at"])
        for jpeg, frame in zip(jpegs, json.loads(head)["frames"], strict=True)
    ]
    return Uncommitted(pcm, frames)


def _joined(chunks: Iterable[bytes]) -> bytes:
    return b"".join(part for chunk in chunks for part in (_LENGTH.pack(len(chunk)), chunk))


def _chunks(record: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(record):
        (length,) = _LENGTH.unpack_from(record, at)
        at += _LENGTH.size + length
        yield record[at - length : at]


def _described(content: Content, media: list[bytes]) -> Json:
    match content:
        case TextContent(text):
            return {"kind": "text", "text": text}
        case AudioContent(wav, transcript):
            media.append(wav)
            return {"kind": "audio", "transcript": transcript}
        case ImageContent(bytes(data), declared_format):
            media.append(data)
            return {"kind": "image", "declared_format": declared_format}
        case FilmContent(frames, fps):
            media.extend(frames)
            return {"kind": "film", "frames": len(frames), "fps": fps}
        case ImageContent(UrlSource() as source, _, url):
            return {"kind": "image_url", "source": asdict(source), "url": url}
        case ImageContent(FileSource() as source, _, url):
            return {"kind": "image_file", "source": asdict(source), "url": url}
        case SpeechContent(spoken):
            return {"kind": "speech", "spoken": asdict(spoken)}
        case CallContent():
            return {"kind": "call", "call": asdict(content)}
        case CallOutputContent():
            return {"kind": "output", "output": asdict(content)}
        case ImageContent():
            raise AssertionError("an image is bytes, a URL or a file")


def _content(described: Json, media: Iterator[bytes]) -> Content:
    match described["kind"]:
        case "text":
            return TextContent(described["text"])
        case "audio":
            return AudioContent(next(media), described["transcript"])
        case "image":
            return ImageContent(next(media), described["declared_format"])
        case "film":
            return FilmContent([next(media) for _ in range(described["frames"])], described["fps"])
        case "image_url":
            return ImageContent(UrlSource(**described["source"]), url=described["url"])
        case "image_file":
            return ImageContent(FileSource(**described["source"]), url=described["url"])
        case "speech":
            return SpeechContent(Spoken(**described["spoken"]))
        case "call":
            return CallContent(**described["call"])
        case _:
            return CallOutputContent(**described["output"])
