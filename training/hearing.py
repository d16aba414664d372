"""The ear of the local stack's demo, Whisper tiny.en, on the training's threads, and the word error rate that it finds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from services.local import hearing
from services.local.hearing import plain as plain


def transcribe(sound: NDArray[np.float32]) -> str:
    """Return what Whisper hears in float32 [samples] at 24 kHz, in plain words."""
    return hearing.transcribe(sound, torch.get_num_threads())


def word_error_rate(wanted: list[str], heard: list[str]) -> float:
    """Return wrong, missing and added words in proportion to the words wanted."""
    import jiwer  # pyright: ignore[reportMissingImports]

    return float(jiwer.wer([plain(text) for text in wanted], [text or "-" for text in heard]))
