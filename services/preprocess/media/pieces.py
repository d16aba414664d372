"""Cuts a long sound where it is quiet. Where the cuts are depends on the samples alone, not on how they come."""

from __future__ import annotations

from collections.abc import Generator, Iterable

import numpy as np

from services.preprocess.media.samples import SAMPLE_RATE, Samples, check_length

# A pause between two sentences is longer; the cut is in its middle.
_QUIET_SAMPLES = SAMPLE_RATE * 3 // 10
_HOP_SAMPLES = SAMPLE_RATE // 100
# No last piece is shorter than this where there are others.
_LEAST_REST = SAMPLE_RATE
LEAST_PIECE_S = 5.0


def cut_at_silence(blocks: Iterable[Samples], most: int) -> Generator[Samples]:
    """Yield pieces of at most `most` samples (LEAST_PIECE_S or more). Each but the last is at least half as long, and
    ends at the quietest 0.3 s of its second half. Together they are the blocks, without a sample more or less.

    Raise MediaProblem where the whole is too short.
    """
    held: list[Samples] = []
    size = total = 0
    for block in blocks:
        held.append(block)
        size += block.size
        total += block.size
        while size >= most + _LEAST_REST:
            piece, rest = _cut(np.concatenate(held), most)
            yield piece
            held, size = [rest], rest.size
    check_length(total)
    last = np.concatenate(held)
    if size > most:
        piece, last = _cut(last, size - _LEAST_REST)
        yield piece
    yield last


def _cut(sound: Samples, most: int) -> tuple[Samples, Samples]:
    begin = most // 2
    second_half = sound[begin:most].astype(np.float64)
    hops = second_half[: second_half.size // _HOP_SAMPLES * _HOP_SAMPLES].reshape(-1, _HOP_SAMPLES)
    energy = np.concatenate(([0.0], np.cumsum(np.square(hops).sum(axis=1))))
    width = _QUIET_SAMPLES // _HOP_SAMPLES
    windows = energy[width:] - energy[:-width]
    quietest = windows.size - 1 - int(np.argmin(windows[::-1]))  # the last one: longer pieces
    at = begin + quietest * _HOP_SAMPLES + _QUIET_SAMPLES // 2
    return sound[:at], sound[at:].copy()
