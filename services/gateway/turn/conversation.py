"""The messages of a conversation: their parts, and where a part's media is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class UrlSource:
    """http or https; only the preprocess service fetches it."""

    url: str
    # What the client says it is ("wav", "image/png"); "" = not said. The bytes decide.
    declared_format: str = ""


@dataclass(frozen=True, slots=True)
class InlineSource:
    """The bytes at this index of `Intent.inline`."""

    index: int
    declared_format: str = ""


@dataclass(frozen=True, slots=True)
class FileSource:
    """A file below the folder that the operator allowed."""

    path: str
    declared_format: str = ""


MediaSource = UrlSource | InlineSource | FileSource


@dataclass(frozen=True, slots=True)
class TextPart:
    # Of every part: where the client wrote it, for errors ("messages[0].content[1]").
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class ImagePart:
    path: str
    source: MediaSource
    # Bounds of the resize; None = the checkpoint's own.
    min_pixels: int | None = None
    max_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class AudioPart:
    path: str
    source: MediaSource


@dataclass(frozen=True, slots=True)
class VideoPart:
    """A video file, or its frames as images in order."""

    path: str
    source: MediaSource | Sequence[MediaSource]
    # Frames to sample a second; None = the model's default.
    fps: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    # Of all sampled frames together.
    total_pixels: int | None = None
    # Whether its sound is heard; None = as the intent says.
    use_audio: bool | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file, which may have sound."""
        return isinstance(self.source, MediaSource)


Part = TextPart | ImagePart | AudioPart | VideoPart


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool in an earlier answer."""

    path: str
    id: str
    name: str
    # The text of a JSON object.
    arguments: str


@dataclass(frozen=True, slots=True)
class Message:
    # "system", "user", "assistant" or "tool".
    role: str
    parts: Sequence[Part]
    # Of an assistant.
    tool_calls: Sequence[ToolCall] = ()
    # Of a tool: the call whose result it is.
    tool_call_id: str = ""


# What the tags and lengths of a part and of a media's source take on the wire.
_FRAMING_BYTES = 8


def join_calls(messages: Iterable[Message]) -> list[Message]:
    """Return the conversation with the text and the calls of an answer, where they are apart, in one message."""
    out: list[Message] = []
    for message in messages:
        last = out[-1] if out else None
        is_one = last is not None and last.role == message.role == "assistant"
        if last is not None and is_one and (last.tool_calls or message.tool_calls):
            out[-1] = replace(
                last, parts=[*last.parts, *message.parts], tool_calls=(*last.tool_calls, *message.tool_calls)
            )
        else:
            out.append(message)
    return out


def text_bytes(messages: Iterable[Message]) -> int:
    """Return about how many bytes the messages take on their way to the stages, without their inline media."""
    return sum(map(_message_bytes, messages))


def held_text_bytes(text: str) -> int:
    """Return how many bytes a text takes in memory at most: beyond ASCII up to four a character, and its UTF-8, which
    Python keeps beside it once the text was validated or sent."""
    return len(text) if text.isascii() else 4 * len(text) + _utf8_bytes(text)


def holds_media(messages: Iterable[Message]) -> bool:
    return any(not isinstance(part, TextPart) for message in messages for part in message.parts)


def inline_indices(messages: Iterable[Message]) -> set[int]:
    """Return the indices of the inline media that the messages hold."""
    parts = [part for message in messages for part in message.parts if not isinstance(part, TextPart)]
    sources = [source for part in parts for source in _sources(part)]
    return {source.index for source in sources if isinstance(source, InlineSource)}


def _sources(part: ImagePart | AudioPart | VideoPart) -> Sequence[MediaSource]:
    return part.source if isinstance(part.source, Sequence) else (part.source,)


def _message_bytes(message: Message) -> int:
    size_bytes = sum(map(_part_bytes, message.parts))
    if message.tool_calls:
        size_bytes += sum(map(_call_bytes, message.tool_calls))
    if message.tool_call_id:
        size_bytes += _utf8_bytes(message.tool_call_id)
    return size_bytes


def _call_bytes(call: ToolCall) -> int:
    return _FRAMING_BYTES + sum(map(_utf8_bytes, (call.path, call.id, call.name, call.arguments)))


def _part_bytes(part: Part) -> int:
    if isinstance(part, TextPart):
        return _FRAMING_BYTES + len(part.path) + _utf8_bytes(part.text)
    sources = (part.source,) if isinstance(part.source, MediaSource) else part.source
    return _FRAMING_BYTES + len(part.path) + sum(map(_source_bytes, sources))


def _source_bytes(source: MediaSource) -> int:
    match source:
        case UrlSource():
            return _FRAMING_BYTES + _utf8_bytes(source.url)
        case FileSource():
            return _FRAMING_BYTES + _utf8_bytes(source.path)
        case InlineSource():
            return _FRAMING_BYTES


def _utf8_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())
