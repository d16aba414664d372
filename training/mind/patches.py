"""Pixels as the processor packs them: patches of 16 × 16 × 2 frames, two by two in the order in which they merge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.mind.arrays import Pixels

PATCH, MERGE, FRAMES = 16, 2, 2


def pack(frames: Pixels) -> tuple[Tensor, tuple[int, int, int]]:
    """Pack uint8 [frames, height, width, 3], sides divisible by 32; one frame is a picture, else an even number.

    Return float32 [patches, 3 · 2 · 16 · 16] within ±1 and the grid (t, h, w), both as the processor gives them.
    """
    if len(frames) == 1:
        frames = np.repeat(frames, FRAMES, 0)
    count, height, width, _ = frames.shape
    t, h, w = count // FRAMES, height // PATCH, width // PATCH
    levels = torch.from_numpy(frames).permute(0, 3, 1, 2)
    cut = levels.reshape(t, FRAMES, 3, h // MERGE, MERGE, PATCH, w // MERGE, MERGE, PATCH)
    rows = cut.permute(0, 3, 6, 4, 7, 2, 1, 5, 8).reshape(t * h * w, -1)
    return rows.float().div_(127.5).sub_(1.0), (t, h, w)
