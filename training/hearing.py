"""The ears that mark the model's speech: the local stack's Whisper for its words, DNSMOS (speechmos) for its sound."""

from __future__ import annotations

import numpy as np
import soxr
import torch
from numpy.typing import NDArray

from services.local import hearing
from services.local.hearing import EAR_RATE, SAMPLE_RATE
from services.local.hearing import plain as plain


def transcribe(sound: NDArray[np.float32]) -> str:
    """Return what Whisper hears in float32 [samples] at 24 kHz, in plain words."""
    return hearing.transcribe(sound, torch.get_num_threads())


def quality(sound: NDArray[np.float32]) -> float:
    """Return DNSMOS' overall opinion score of float32 [samples] at 24 kHz: 1 bad … 5 excellent."""
    from speechmos import dnsmos  # pyright: ignore[reportMissingImports]

    heard = soxr.resample(sound, SAMPLE_RATE, EAR_RATE)
    return float(dnsmos.run(np.clip(heard, -1, 1), EAR_RATE)["ovrl_mos"])


def word_error_rate(wanted: list[str], heard: list[str]) -> float:
    """Return wrong, missing and added words in proportion to the words wanted."""
    import jiwer  # pyright: ignore[reportMissingImports]

    return float(jiwer.wer([plain(text) for text in wanted], [text or "-" for text in heard]))
