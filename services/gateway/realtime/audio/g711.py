"""G.711: a byte for each sample of 8 kHz, on a scale that is nearly logarithmic."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import numpy.typing as npt

Law = Literal["pcmu", "pcma"]
_BIAS = 0x84


@cache
def linear_of(law: Law) -> npt.NDArray[np.int16]:
    """Return the sample, 16 bits, that each byte stands for: [256]."""
    return (_mu_law() if law == "pcmu" else _a_law()).astype(np.int16)


def _mu_law() -> npt.NDArray[np.int32]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    size = ((((code & 0x0F) << 3) + _BIAS) << ((code & 0x70) >> 4)) - _BIAS
    return np.where(code & 0x80, -size, size)


def _a_law() -> npt.NDArray[np.int32]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment = (code & 0x70) >> 4
    size = ((code & 0x0F) << 4) + np.where(segment, 0x108, 8)
    size <<= np.maximum(segment - 1, 0)
    return np.where(code & 0x80, size, -size)


@cache
def _codes_of(law: Law) -> npt.NDArray[np.uint8]:
    """Return the byte that is nearest to each sample: [65536], the sample -32768 first."""
    linear = linear_of(law).astype(np.int32)
    # Of two codes of 0, the positive one.
    order = np.argsort(linear, kind="stable")
    ordered = linear[order]
    samples = np.arange(-32768, 32768, dtype=np.int32)
    above = np.searchsorted(ordered, samples).clip(1, 255)
    nearer_below = samples - ordered[above - 1] < ordered[above] - samples
    return order[np.where(nearer_below, above - 1, above)].astype(np.uint8)


def decoded(data: bytes | bytearray, law: Law) -> npt.NDArray[np.int16]:
    return linear_of(law)[np.frombuffer(data, np.uint8)]


def encoded(samples: npt.NDArray[np.int16], law: Law) -> bytes:
    return _codes_of(law)[samples.astype(np.int32) + 32768].tobytes()
