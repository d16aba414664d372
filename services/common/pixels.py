"""Pixels as features: the levels that a picture has, and the table of what the checkpoint's processor makes of each.

A processor rescales and normalises each value of a picture on its own, so its 256 results of a channel are all that
there is to know. Levels take a byte each, where values take two or four, and a table gives the same bits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LEVELS = 256
# The key of an item's table, float32 [channels, 256]. Its pixel values are then levels, uint8.
LEVEL_TABLE = "pixel_level_table"
# Looked up at a time: the index of a level takes four times as much memory as the level.
_LEVELS_AT_ONCE = 1 << 22


def level_table(normalise: Callable[[Tensor], Tensor], channels: int = 3) -> Tensor:
    """Return float32 [channels, 256]: what `normalise`, of uint8 [1, channels, height, width], makes of each level."""
    ramp = torch.arange(LEVELS, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, channels, 16, 16).contiguous()
    return normalise(ramp).to(torch.float32).reshape(channels, LEVELS)


def values_of(levels: Tensor, tables: Tensor, patches: Sequence[int], repeats: int, dtype: torch.dtype) -> Tensor:
    """Return the processor's values of several items: `dtype` [patches, channels × repeats × n].

    levels: uint8 [patches, channels × n]. tables: [items, channels, 256], on the same device. patches: how many each
    item has. repeats: how often a channel's levels stand in a patch; the frames of a still picture are all alike.
    """
    channels = tables.shape[1]
    width = levels.shape[1] // channels
    offsets = LEVELS * torch.arange(channels, dtype=torch.int32, device=levels.device).repeat_interleave(width)
    values = torch.empty((len(levels), channels, repeats, width), dtype=dtype, device=levels.device)
    step = max(_LEVELS_AT_ONCE // levels.shape[1], 1)
    end = 0
    for table, count in zip(tables.to(dtype).flatten(1), patches, strict=True):
        start, end = end, end + count
        for at in range(start, end, step):
            part = levels[at : min(at + step, end)]
            found = table.index_select(0, (part.to(torch.int32) + offsets).view(-1))
            values[at : at + len(part)] = found.view(len(part), channels, 1, width)
    return values.view(len(levels), -1)
