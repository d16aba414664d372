"""A sound that stands for speech where what it says is all that counts."""

from __future__ import annotations

import random

import numpy as np

from training.mind.clips import Clip


def hum(text: str, _: random.Random) -> Clip:
    return Clip(text, "hum", np.sin(np.arange(len(text) * 1500) * 0.1).astype(np.float32))
