"""How a session's turns are detected."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Eagerness(Enum):
    """How soon the model takes its turn."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    AUTO = "auto"
    """As medium."""


@dataclass(frozen=True, slots=True)
class Silences:
    """Milliseconds of silence that end a turn."""

    # Where the user is judged to have finished, where nobody knows, and where they are judged to go on.
    finished_ms: int
    unknown_ms: int
    unfinished_ms: int


_MEDIUM = Silences(400, 1200, 4000)
SILENCES: Mapping[Eagerness, Silences] = {
    Eagerness.LOW: Silences(800, 2400, 8000),
    Eagerness.MEDIUM: _MEDIUM,
    Eagerness.HIGH: Silences(200, 600, 2000),
    Eagerness.AUTO: _MEDIUM,
}


@dataclass(frozen=True, slots=True)
class TurnDetection:
    """The client's wishes for one session; the defaults are OpenAI's."""

    # Speech is what is at least so probable, 0 to 1.
    threshold: float = 0.5
    # Audio before the speech that belongs to the turn.
    prefix_padding_ms: int = 300
    # Silence that ends a turn.
    silence_duration_ms: int = 500
    # Whether the end of a turn begins a response.
    create_response: bool = True
    # Whether speech ends the conversation's running response.
    interrupt_response: bool = True
    # Silence after an answer was played that begins another response; None = none does.
    idle_timeout_ms: int | None = None
    # None = silence alone ends a turn. Otherwise the model judges whether the user has finished, and
    # `silence_duration_ms` has no effect.
    eagerness: Eagerness | None = None

    @property
    def longest_silence_ms(self) -> int:
        """The silence that ends a turn in any case."""
        return self.silence_duration_ms if self.eagerness is None else SILENCES[self.eagerness].unfinished_ms

    def silence_ms(self, is_finished: bool | None) -> int:
        """Return the silence that ends a turn where this was judged; None = nothing was."""
        if self.eagerness is None:
            return self.silence_duration_ms
        silences = SILENCES[self.eagerness]
        if is_finished is None:
            return silences.unknown_ms
        return silences.finished_ms if is_finished else silences.unfinished_ms


@dataclass(frozen=True, slots=True)
class TurnLimits:
    """The operator's."""

    # Sounds while an answer is heard that are shorter do nothing.
    interrupt_speech_ms: int
    # Those that are shorter hold it until it is decided whether they interrupt it.
    back_channel_ms: int
    # Silence after which a response is begun ahead of the turn's end; 0 = never.
    eager_silence_ms: int
    # Responses of one turn that are begun ahead.
    eager_tries: int
    # Pauses of one session that the model judges in any minute.
    judgements_per_minute: int
