"""The items of a conversation, in order."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum

from services.common.errors import BadInput, TooLarge
from services.gateway.realtime.spoken import Spoken
from services.gateway.turn.conversation import FileSource, UrlSource, held_text_bytes

SAMPLE_RATE = 24_000
"""Of all audio of clients, Hz: mono, 16 bits signed, little-endian."""
# Items of one conversation, and parts of one item.
MAX_ITEMS = 2048
MAX_CONTENTS = 64
# What an item or a part of it takes beside its text and media.
_OBJECT_BYTES = 512
_WAV_HEADER_BYTES = 44


@dataclass(slots=True)
class TextContent:
    text: str

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + held_text_bytes(self.text)


@dataclass(slots=True)
class AudioContent:
    """What the user said, as a WAV file."""

    wav: bytes
    # As the client gave it. The model does not read it.
    transcript: str | None = None

    @property
    def pcm(self) -> memoryview:
        return memoryview(self.wav)[_WAV_HEADER_BYTES:]

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + len(self.wav) + 4 * len(self.transcript or "")


@dataclass(slots=True)
class ImageContent:
    """An image's bytes, or where it is. `url` is what the client gave, unless it held the bytes."""

    source: UrlSource | FileSource | bytes
    declared_format: str = ""
    url: str | None = None

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + (len(self.source) if isinstance(self.source, bytes) else 4 * len(self.url or ""))


@dataclass(slots=True)
class FilmContent:
    """What the user's camera showed: JPEG files of one size, in order."""

    frames: list[bytes]
    # How many there are for each second.
    fps: float

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + sum(map(len, self.frames))


@dataclass(slots=True)
class SpeechContent:
    """What the model said."""

    spoken: Spoken

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + 4 * len(self.spoken.text)


@dataclass(slots=True)
class CallContent:
    """A call of a function by the model, the only content of its item."""

    call_id: str
    name: str
    # The text of a JSON object, once it is whole.
    arguments: str = ""

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + len(self.call_id) + len(self.name) + held_text_bytes(self.arguments)


@dataclass(slots=True)
class CallOutputContent:
    """What a call has given, the only content of its item."""

    call_id: str
    output: str

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + len(self.call_id) + held_text_bytes(self.output)


Content = TextContent | AudioContent | ImageContent | FilmContent | SpeechContent | CallContent | CallOutputContent


class ItemStatus(Enum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"


@dataclass(slots=True)
class Item:
    # "system", "user", "assistant", or "tool" for the output of a call.
    role: str
    contents: list[Content]
    id: str = field(default_factory=lambda: new_id("item"))
    status: ItemStatus = ItemStatus.COMPLETED

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + sum(content.size_bytes for content in self.contents)

    @property
    def call(self) -> CallContent | None:
        """The call that the item is; None = it is none."""
        content = self.contents[0] if self.contents else None
        return content if isinstance(content, CallContent) else None

    @property
    def audio(self) -> AudioContent | None:
        """What the user said; None = nothing that is to be heard."""
        return next((content for content in self.contents if isinstance(content, AudioContent)), None)

    def check_whole(self) -> None:
        """Raise BadInput while the item is being made."""
        if self.status is ItemStatus.IN_PROGRESS:
            raise BadInput(
                "The item is being made. Wait for response.done, or cancel the response first.",
                param="item_id",
                code="item_in_progress",
            )


class Conversation:
    """Items by their order. Errors have the `code` that their caller gives."""

    def __init__(self) -> None:
        self.id = new_id("conv")
        self._items: dict[str, Item] = {}

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items.values())

    @property
    def size_bytes(self) -> int:
        return sum(item.size_bytes for item in self)

    @property
    def answers(self) -> Iterator[Spoken]:
        """The spoken answers that no limit and no cancel cut."""
        for item in self:
            if item.status is ItemStatus.COMPLETED:
                yield from (content.spoken for content in item.contents if isinstance(content, SpeechContent))

    @property
    def last_id(self) -> str | None:
        return next(reversed(self._items), None)

    def check_new(self, item: Item, after: str | None) -> None:
        """Raise BadInput or TooLarge where `add` could not add the item."""
        if item.id in self._items:
            raise BadInput(f"The conversation already has an item '{item.id[:100]}'.", param="item.id")
        if len(self._items) >= MAX_ITEMS:
            raise TooLarge(
                f"The conversation has {MAX_ITEMS} items, which is the most. Delete some.", code="too_many_items"
            )
        if after and after not in self._items:
            raise BadInput(
                f"The conversation has no item '{after[:100]}'.",
                param="previous_item_id",
                code="item_create_invalid_previous_item_id",
            )

    def check_output(self, item: Item) -> None:
        """Raise BadInput where the item is the output of a call that the conversation does not have."""
        for output in item.contents:
            if isinstance(output, CallOutputContent) and not self._has_call(output.call_id):
                raise BadInput(
                    f"The conversation has no call '{output.call_id[:100]}'. Send the id of one of its calls.",
                    param="item.call_id",
                    code="invalid_tool_call_id",
                )

    def _has_call(self, call_id: str) -> bool:
        return any(call.call_id == call_id for item in self if (call := item.call) is not None)

    def holds(self, item: Item) -> bool:
        """Whether this very item is in the conversation: another one may have its id."""
        return self._items.get(item.id) is item

    def __contains__(self, item_id: str | None) -> bool:
        return item_id in self._items

    def add(self, item: Item, after: str | None = None) -> str | None:
        """Add an item behind the one with the id `after`: "" = as the first, None = as the last one. Return the id of
        the item before it."""
        self.check_new(item, after)
        if after is None or after == self.last_id:
            before = self.last_id
            self._items[item.id] = item
            return before
        items: list[Item] = [] if after else [item]
        for one in self._items.values():
            items += (one, item) if one.id == after else (one,)
        self._items = {one.id: one for one in items}
        return after or None

    def get(self, item_id: str, code: str) -> Item:
        if (item := self._items.get(item_id)) is None:
            raise BadInput(f"The conversation has no item '{item_id[:100]}'.", param="item_id", code=code)
        return item

    def remove(self, item: Item) -> None:
        del self._items[item.id]

    def after(self, item: Item) -> str | None:
        """Return the id of the item behind one of the conversation."""
        ids = list(self._items)
        return next(iter(ids[ids.index(item.id) + 1 :]), None)

    def before(self, item: Item) -> str | None:
        """Return the id of the item before one of the conversation."""
        previous = None
        for one in self._items:
            if one == item.id:
                break
            previous = one
        return previous


def wav_of(pcm: bytes | bytearray) -> bytes:
    """Return a WAV file of samples: SAMPLE_RATE, mono, 16 bits."""
    sizes = struct.pack(
        "<4sI8sIHHIIHH", b"RIFF", 36 + len(pcm), b"WAVEfmt ", 16, 1, 1, SAMPLE_RATE, 2 * SAMPLE_RATE, 2, 16
    )
    return b"".join((sizes, struct.pack("<4sI", b"data", len(pcm)), pcm))


def new_id(kind: str) -> str:
    return f"{kind}_{secrets.token_hex(12)}"
