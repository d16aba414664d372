"""Samples as bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pcm_from_samples(samples: NDArray[np.float32]) -> bytes:
    """float32 in ±1 → 16-bit signed little-endian, clipped and rounded to nearest; ±1 is ±32767."""
    return np.rint(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes()
