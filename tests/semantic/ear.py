"""What is heard in the model's speech: words, by Whisper, and a voice's pitch. All speech is 16-bit mono at 24 kHz."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from services.local.hearing import SAMPLE_RATE, transcribe

_WINDOW = 1920
_HOP = 480
_LOWEST_HZ, _HIGHEST_HZ = 70, 350
_HARMONICS = 10
_DECAY = 0.84
_PADDING = 8


def words_in(pcm: bytes) -> str:
    """Return what Whisper hears, in plain words."""
    return transcribe(_samples(pcm))


def pitch_hz(speeches: Sequence[bytes]) -> float:
    """Return the median pitch of the loud moments of a voice's speeches.

    By subharmonic summation (Hermes 1988): the pitch whose harmonics are the strongest in sum, each weighed less than
    the one below. It finds a deep voice's pitch also where the fundamental itself is weak.
    """
    return float(np.median([_strongest_hz(window) for pcm in speeches for window in _loud_windows(_samples(pcm))]))


def _strongest_hz(window: NDArray[np.float32]) -> float:
    spectrum = np.abs(np.fft.rfft(window * np.hanning(_WINDOW), _PADDING * _WINDOW))
    pitches_hz = np.arange(_LOWEST_HZ, _HIGHEST_HZ)
    bins_a_hz = _PADDING * _WINDOW / SAMPLE_RATE
    strengths = sum(
        _DECAY**harmonic * spectrum[np.rint((harmonic + 1) * pitches_hz * bins_a_hz).astype(int)]
        for harmonic in range(_HARMONICS)
    )
    return float(pitches_hz[np.argmax(strengths)])


def _loud_windows(samples: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    """Yield windows of 80 ms that are louder than the whole."""
    power = np.mean(samples**2)
    for start in range(0, len(samples) - _WINDOW, _HOP):
        window = samples[start : start + _WINDOW]
        if np.mean(window**2) > power:
            yield window


def _samples(pcm: bytes) -> NDArray[np.float32]:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / np.float32(32768)
