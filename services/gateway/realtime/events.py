"""What a session tells its client. A dialect has a form for each."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.common.errors import AntiphonError
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.response import Response
from services.gateway.turn.events import Usage


@dataclass(frozen=True, slots=True)
class SpeechStarted:
    """The user speaks. `start_ms`: where the item that this will become begins, in all audio of the session."""

    item_id: str
    start_ms: int


@dataclass(frozen=True, slots=True)
class SpeechStopped:
    item_id: str
    end_ms: int


@dataclass(frozen=True, slots=True)
class AnswerHeld:
    """A sound of the user may interrupt the answer. It is silent until that is decided, MOST_HELD_S at most; or it goes
    on now."""

    is_held: bool


@dataclass(frozen=True, slots=True)
class SilenceTimedOut:
    """Nobody spoke since the last answer was played. The silence becomes an item, and the model responds."""

    item_id: str
    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class Refused:
    """What the session would have done by itself it could not do."""

    error: AntiphonError


@dataclass(frozen=True, slots=True)
class AudioCommitted:
    item_id: str
    previous_id: str | None


@dataclass(frozen=True, slots=True)
class AudioCleared:
    pass


@dataclass(frozen=True, slots=True)
class ItemAdded:
    """A whole item is in the conversation."""

    item: Item
    previous_id: str | None


@dataclass(frozen=True, slots=True)
class TranscriptDelta:
    """More of the text of an item's audio."""

    item_id: str
    text: str


@dataclass(frozen=True, slots=True)
class TranscriptDone:
    item_id: str
    text: str
    usage: Usage


@dataclass(frozen=True, slots=True)
class TranscriptFailed:
    item_id: str
    error: AntiphonError


@dataclass(frozen=True, slots=True)
class ItemRetrieved:
    item: Item


@dataclass(frozen=True, slots=True)
class ItemDeleted:
    item_id: str


@dataclass(frozen=True, slots=True)
class ItemTruncated:
    item_id: str
    audio_end_ms: int


@dataclass(frozen=True, slots=True)
class ResponseCreated:
    response: Response


@dataclass(frozen=True, slots=True)
class OutputStarted:
    """An item of the answer begins. It is in the conversation, behind `previous_id`, unless the response is out of
    band."""

    response: Response
    item: Item
    previous_id: str | None


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More of what the item says."""

    response: Response
    item: Item
    text: str


@dataclass(frozen=True, slots=True)
class AudioDelta:
    """Samples, mono, 16 bits signed, little-endian."""

    response: Response
    item: Item
    pcm: bytes


@dataclass(frozen=True, slots=True)
class ArgumentsDelta:
    """More of the arguments of the call that the item is."""

    response: Response
    item: Item
    text: str


@dataclass(frozen=True, slots=True)
class OutputDone:
    """The item is as it stays, whole or not."""

    response: Response
    item: Item
    previous_id: str | None


@dataclass(frozen=True, slots=True)
class ResponseDone:
    response: Response


Event = (
    SpeechStarted
    | SpeechStopped
    | AnswerHeld
    | SilenceTimedOut
    | Refused
    | AudioCommitted
    | AudioCleared
    | ItemAdded
    | TranscriptDelta
    | TranscriptDone
    | TranscriptFailed
    | ItemRetrieved
    | ItemDeleted
    | ItemTruncated
    | ResponseCreated
    | OutputStarted
    | TextDelta
    | AudioDelta
    | ArgumentsDelta
    | OutputDone
    | ResponseDone
)
Emit = Callable[[Event], Awaitable[None]]
