"""The amounts of one turn: what it used, each thing counted once however many workers took part."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter

from services.gateway.turn.prompt import Feature, Modality

DISCARDED = "discarded"
"""The outcome of a turn that was begun on suspicion, and of which nothing was delivered."""
FRAME_MS = 80
"""Of speech out, by a codec frame."""
AUDIO_TOKENS_PER_S = 13
"""Of sound in a prompt."""


@dataclass(frozen=True, slots=True)
class Amounts:
    """The names of usage.proto."""

    prompt_text_tokens: int = 0
    prompt_audio_tokens: int = 0
    prompt_image_tokens: int = 0
    prompt_video_tokens: int = 0
    cached_tokens: int = 0
    completion_text_tokens: int = 0
    reasoning_tokens: int = 0
    completion_audio_tokens: int = 0
    audio_in_ms: int = 0
    audio_out_ms: int = 0
    media_bytes: int = 0

    @property
    def by_name(self) -> dict[str, int]:
        return dict(zip(_NAMES, _VALUES(self), strict=True))

    @property
    def used(self) -> dict[str, int]:
        """Return those that are not 0, by name."""
        return {name: count for name, count in zip(_NAMES, _VALUES(self), strict=True) if count}

    @property
    def prompt_tokens(self) -> int:
        return self.prompt_text_tokens + self.prompt_audio_tokens + self.prompt_image_tokens + self.prompt_video_tokens

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_text_tokens + self.completion_audio_tokens

    @property
    def audio_ms(self) -> int:
        return self.audio_in_ms + self.audio_out_ms


_NAMES = tuple(Amounts.__dataclass_fields__)
_VALUES = attrgetter(*_NAMES)


def sound_ms(audio_tokens: int) -> int:
    """Return how long the sounds of so many prompt tokens are, rounded up."""
    return math.ceil(audio_tokens * 1000 / AUDIO_TOKENS_PER_S)


def video_ms(features: Iterable[Feature]) -> int:
    """Return how long the videos among the features are together, as far as frames were sampled."""
    return sum(
        math.ceil(feature.grid.t * feature.grid.seconds_per_grid * 1000)
        for feature in features
        if feature.modality is Modality.VIDEO and feature.grid is not None
    )
