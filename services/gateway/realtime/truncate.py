"""What of a conversation is left out where it is too long for the model. Pure.

How many tokens a prompt has is known once it is prepared. So items are weighed, and where that was not enough, more of
them are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.realtime.conversation import (
    AudioContent,
    CallContent,
    CallOutputContent,
    Content,
    Conversation,
    FilmContent,
    ImageContent,
    Item,
    SpeechContent,
    TextContent,
)

# Each about what it takes: 12.5 tokens a second of audio, an image of the size that the checkpoint resizes to,
# and a frame of a film, two of which make a patch.
_BYTES_A_TEXT_TOKEN = 3
_WAV_BYTES_A_TOKEN = 3840
_IMAGE_TOKENS = 600
_FRAME_TOKENS = 300
_ITEM_TOKENS = 8


@dataclass(frozen=True, slots=True)
class Truncation:
    # How much of a conversation is kept that is too long, 0 to 1.
    retention_ratio: float = 0.8
    # The client leaves that to the server.
    is_auto: bool = True


class Context:
    """The items of a conversation that the model reads: all, until there are too many. Then it begins later, also for
    the next responses, so that their prompts begin alike and the model's cache serves them."""

    def __init__(self, conversation: Conversation) -> None:
        self._conversation = conversation
        # The id of the first one; None = the conversation's.
        self._begins_at: str | None = None

    def items(self) -> list[Item]:
        items = list(self._conversation)
        start = next((i for i, item in enumerate(items) if item.id == self._begins_at), 0)
        return items[start:]

    def shorten(self, items: Sequence[Item], truncation: Truncation | None) -> list[Item] | None:
        """Return fewer of the items, which were too many, and begin there from now on; None = they can't be fewer."""
        fewer = shortened(items, truncation.retention_ratio) if truncation is not None else None
        if fewer is not None:
            self._begins_at = fewer[0].id
        return fewer

    def leave_out(self, item: Item) -> None:
        """Note that an item is about to be deleted."""
        if item.id == self._begins_at:
            self._begins_at = self._conversation.after(item)


def shortened(items: Sequence[Item], ratio: float) -> list[Item] | None:
    """Return the newest items that make up about this part of all; None = there are no fewer.

    The last one stays. No output of a call stays without its call.
    """
    weights = [_ITEM_TOKENS + sum(map(_tokens, item.contents)) for item in items]
    left, most, start = sum(weights), ratio * sum(weights), 0
    while start < len(items) - 1 and (not start or left > most):
        left -= weights[start]
        start += 1
    while start < len(items) - 1 and items[start].role == "tool":
        start += 1
    return list(items[start:]) if start else None


def _tokens(content: Content) -> int:
    match content:
        case TextContent():
            return len(content.text.encode()) // _BYTES_A_TEXT_TOKEN
        case SpeechContent():
            return len(content.spoken.heard_text.encode()) // _BYTES_A_TEXT_TOKEN
        case AudioContent():
            return len(content.wav) // _WAV_BYTES_A_TOKEN
        case ImageContent():
            return _IMAGE_TOKENS
        case FilmContent():
            return len(content.frames) * _FRAME_TOKENS
        case CallContent():
            return len(content.arguments.encode()) // _BYTES_A_TEXT_TOKEN
        case CallOutputContent():
            return len(content.output.encode()) // _BYTES_A_TEXT_TOKEN
