"""The ear that marks the model's speech, on sounds with known words and pitch."""

from __future__ import annotations

import numpy as np
import pytest

from services.local.demo.media import spoken
from tests.semantic.ear import pitch_hz, words_in
from training.hearing import word_error_rate

RATE = 24_000


@pytest.mark.parametrize("pitch", [100, 130, 210])
def test_the_pitch_is_found_without_its_fundamental(pitch: int) -> None:
    times_s = np.arange(RATE) / RATE
    sound = sum(np.sin(2 * np.pi * harmonic * pitch * times_s) / harmonic for harmonic in range(2, 12))
    pcm = (6000 * sound * np.sin(np.pi * times_s)).astype("<i2").tobytes()
    assert pitch_hz([pcm]) == pytest.approx(pitch, rel=0.02)


def test_words_are_heard_and_wrong_ones_counted() -> None:
    heard = words_in(spoken("Seven times six is forty two.", "").data[44:])
    assert heard == "seven times six is forty two"
    assert word_error_rate(["Seven times six is 42.", "I hear a bell."], [heard, "i hear bells"]) == pytest.approx(0.2)
