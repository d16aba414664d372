"""What media are made of."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

RATE = 16_000
"""Samples a second of what the audio tower hears."""

Samples = npt.NDArray[np.float32]
"""Sound, [samples] within ±1."""

Pixels = npt.NDArray[np.uint8]
"""[height, width, 3], or [frames, height, width, 3]."""
