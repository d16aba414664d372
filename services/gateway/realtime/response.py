"""A response: how it was asked for, and what has become of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from services.common.derailments import Derailment
from services.common.errors import AntiphonError, TooLarge
from services.gateway.http.presets.presets import PRESETS, AskedPreset
from services.gateway.realtime.audio.formats import AudioFormat
from services.gateway.realtime.conversation import Item, new_id
from services.gateway.realtime.input_options import Transcription
from services.gateway.realtime.tools import Tools
from services.gateway.realtime.truncate import Truncation
from services.gateway.turn.conversation import held_text_bytes
from services.gateway.turn.events import Usage
from services.gateway.turn.intent import Sampling, SpeechOptions


@dataclass(frozen=True, slots=True)
class ResponseOptions:
    """How to respond: the session's, or those of one response."""

    speaks: bool = True
    instructions: str = ""
    preset: AskedPreset | None = None
    sampling: Sampling = field(default_factory=Sampling)
    audio_format: AudioFormat = AudioFormat.PCM
    # Without effect where it does not speak.
    speech: SpeechOptions = field(default_factory=SpeechOptions)
    tools: Tools = field(default_factory=Tools)
    # None = a conversation that is too long for the model fails.
    truncation: Truncation | None = field(default_factory=Truncation)
    # Of a session alone; None = what the user says is not transcribed.
    transcription: Transcription | None = None

    @property
    def system_preset(self) -> AskedPreset | None:
        """The preset, unless it is a task for what the user said last."""
        return self.preset if self.preset is not None and PRESETS[self.preset.name].kind == "system" else None

    def check_text(self, max_bytes: int) -> None:
        """Raise TooLarge where the stages could not read them, whatever else is in the prompt."""
        if len(self.instructions.encode()) + len(self.tools.form.tools.encode()) > max_bytes:
            raise TooLarge(
                f"The instructions and the tools are larger than {max_bytes} bytes. Send shorter ones.",
                code="text_too_large",
            )

    @property
    def size_bytes(self) -> int:
        prompt = self.transcription.prompt if self.transcription is not None else ""
        return held_text_bytes(self.instructions) + held_text_bytes(prompt) + self.tools.size_bytes


class ResponseStatus(Enum):
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    INCOMPLETE = "incomplete"
    """A limit cut the text or the speech."""
    FAILED = "failed"


class CancelledBy(Enum):
    CLIENT = "client"
    TURN = "turn"
    """The user began to speak."""


@dataclass(slots=True)
class Response:
    options: ResponseOptions
    # None = out of band.
    conversation_id: str | None
    # The client's, sent back as it came.
    metadata: Mapping[str, str] | None = None
    id: str = field(default_factory=lambda: new_id("resp"))
    status: ResponseStatus = ResponseStatus.IN_PROGRESS
    # Of a cancelled one.
    cancelled_by: CancelledBy = CancelledBy.CLIENT
    # Of a failed one.
    error: AntiphonError | None = None
    # The name of the limit of who asked that cut it; "" = none did.
    limit: str = ""
    # Why its speech no longer followed the text at its end; None = it did.
    derailment: Derailment | None = None
    # How many times its speech was spoken again.
    spoken_again: int = 0
    # What the model has made, in order.
    items: list[Item] = field(default_factory=list[Item])
    usage: Usage | None = None

    def index_of(self, item: Item) -> int:
        """Return the place of one of its items."""
        return next(i for i, one in enumerate(self.items) if one is item)
