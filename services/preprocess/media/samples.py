"""Samples of any rate and channels → 16 kHz mono float32, as `librosa.load(sr=16000)` makes them.

Channels are averaged; soxr resamples (HQ).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import soxr

from services.preprocess.media.problems import MediaProblem, invalid, too_large

SAMPLE_RATE = 16_000
# The first mel frame reflects half a window (400 samples) at each end: transformers fails on less.
MIN_SAMPLES = 201
MAX_CHANNELS = 32
Samples = npt.NDArray[np.float32]


class Sound(NamedTuple):
    """A sound that is being decoded: blocks of [frames] at `rate`, in order."""

    rate: int
    blocks: Iterator[Samples]


def to_mono(block: Samples) -> Samples:
    """Average the channels of [frames, channels]."""
    return block.T.mean(axis=0) if block.shape[1] > 1 else block[:, 0]


def finish(blocks: list[Samples], rate: int) -> Samples:
    """Resample the blocks of [frames] at `rate` to [samples] at 16 kHz, ceil(frames · ratio) long. Empties `blocks`."""
    mono = np.concatenate(blocks)
    blocks.clear()
    _check_finite(mono)
    if rate != SAMPLE_RATE and mono.size:
        wanted = math.ceil(mono.size * (SAMPLE_RATE / rate))
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="soxr_hq")
        mono = mono[:wanted] if mono.size >= wanted else np.pad(mono, (0, wanted - mono.size))
    check_length(mono.size)
    return np.ascontiguousarray(mono, dtype=np.float32)


def resampled(sound: Sound) -> Generator[Samples]:
    """Yield the same samples as `finish` returns, as they come: nothing holds the whole sound."""
    if sound.rate == SAMPLE_RATE:
        yield from _checked(sound.blocks)
        return
    stream = soxr.ResampleStream(sound.rate, SAMPLE_RATE, 1, dtype="float32", quality="soxr_hq")
    frames = made = 0
    for block in _checked(sound.blocks):
        frames += block.size
        out = stream.resample_chunk(block)
        made += out.size
        yield out
    missing = math.ceil(frames * (SAMPLE_RATE / sound.rate)) - made
    rest = stream.resample_chunk(np.zeros(0, np.float32), last=True)[:missing]
    yield np.pad(rest, (0, missing - rest.size))


def _checked(blocks: Iterable[Samples]) -> Generator[Samples]:
    for block in blocks:
        _check_finite(block)
        yield block


def _check_finite(samples: Samples) -> None:
    if not np.isfinite(samples).all():
        raise invalid("The audio holds samples that are not finite numbers.")


def check_length(samples: int) -> None:
    if samples < MIN_SAMPLES:
        raise invalid(
            f"The audio is {samples / SAMPLE_RATE * 1000:.0f} ms long. "
            f"Send at least {math.ceil(MIN_SAMPLES / SAMPLE_RATE * 1000)} ms."
        )


def check_layout(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 768_000 or not 1 <= channels <= MAX_CHANNELS:
        raise invalid(
            f"The audio has {channels} channels at {rate} Hz. Send 1 to {MAX_CHANNELS} channels at 1000 to 768000 Hz."
        )


def too_long(max_s: float) -> MediaProblem:
    return too_large(f"The audio is longer than {max_s:g} s. Send at most {max_s:g} s.")
