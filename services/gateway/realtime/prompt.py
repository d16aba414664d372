"""The messages of a conversation's items, as a turn takes them."""

from __future__ import annotations

from collections.abc import Iterable

from services.gateway.http.presets.presets import AskedPreset, with_preset
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
from services.gateway.turn import conversation
from services.gateway.turn.conversation import InlineSource, Message, Part, ToolCall, join_calls
from services.gateway.turn.held_media import HeldMedia

# What dialects call a preset.
PRESET = "antiphon_preset"


def messages_of(
    items: Iterable[Item], instructions: str, preset: AskedPreset | None = None
) -> tuple[list[Message], HeldMedia]:
    """Return a message for each item that is not being made, behind the instructions, and the media inside them.

    Raise BadInput where the preset has no place in what was said. The media stays where the items have it: a session
    holds it, and counts it, to its end.
    """
    files: list[bytes] = []
    messages = [Message("system", [conversation.TextPart("instructions", instructions)])] if instructions else []
    for item in items:
        message = _message(item, files)
        if message is not None:
            messages.append(message)
    messages = join_calls(messages)
    if preset is not None and messages:
        messages = with_preset(messages, preset, PRESET)
    return messages, HeldMedia(files)


def _message(item: Item, files: list[bytes]) -> Message | None:
    """Return what the model reads of the item; None = nothing."""
    if item.status is ItemStatus.IN_PROGRESS:
        return None
    match item.contents:
        case [CallContent(call_id, name, arguments)]:
            # The arguments of one that was cut are no JSON.
            whole = item.status is ItemStatus.COMPLETED
            return Message("assistant", (), (ToolCall(item.id, call_id, name, arguments),)) if whole else None
        case [CallOutputContent(call_id, output)]:
            return Message("tool", [conversation.TextPart(f"{item.id}.output", output)], tool_call_id=call_id)
        case contents:
            parts = [_part(content, f"{item.id}.content[{i}]", files) for i, content in enumerate(contents)]
            is_empty = not any(part.text for part in parts if isinstance(part, conversation.TextPart))
            return None if item.role == "assistant" and is_empty else Message(item.role, parts)


def _part(content: Content, path: str, files: list[bytes]) -> Part:
    match content:
        case TextContent():
            return conversation.TextPart(path, content.text)
        case SpeechContent():
            return conversation.TextPart(path, content.spoken.heard_text)
        case AudioContent():
            return conversation.AudioPart(path, _inline(content.wav, "wav", files))
        case ImageContent():
            source = content.source
            if isinstance(source, bytes):
                source = _inline(source, content.declared_format, files)
            return conversation.ImagePart(path, source)
        case FilmContent(frames, fps):
            return conversation.VideoPart(path, [_inline(frame, "image/jpeg", files) for frame in frames], fps=fps)
        case CallContent() | CallOutputContent():
            raise AssertionError("a call is the only content of its item")


def _inline(data: bytes, declared_format: str, files: list[bytes]) -> InlineSource:
    files.append(data)
    return InlineSource(len(files) - 1, declared_format)
