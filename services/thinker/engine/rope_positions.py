"""Positions of a prompt's tokens for the thinker's multimodal RoPE, as transformers 5.19 counts them.

vLLM 0.32.0's own count differs where sound and picture of one video share a span and the sound is short, fails where an
audio of its own stands before such a video, and ends the engine where lengths do not add up. Here everything follows
from where the embeddings are, which has been checked.

Left as it is in vLLM: positions are whole numbers. transformers keeps fractions, which arise where the seconds of a
temporal patch times position_id_per_seconds is no whole number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Ints = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class Item:
    """One media item: where in the prompt its embeddings are, ascending, [n], and their positions inside it, [3, n]."""

    places: Ints
    inside: Ints


def audio_inside(tokens: int) -> Ints:
    return np.tile(np.arange(tokens), (3, 1))


def vision_inside(frames: int, height: int, width: int, positions_a_frame: float) -> Ints:
    """`height` and `width` in merged patches."""
    grid = np.indices((frames, height, width)).reshape(3, -1)
    grid[0] = (grid[0] * positions_a_frame).astype(np.int64)
    return grid


def rope_positions(length: int, items: Sequence[Item]) -> tuple[Ints, int]:
    """[3, length], and what a position after the prompt is more than its index.

    Text counts on by one; an item begins at the next position. Items with no text between them, a video's picture and
    its sound, begin together. Text goes on after the largest position of the last run of one item's tokens: that is how
    transformers has it, where the largest of both would be expected.
    """
    positions = np.empty((3, length), dtype=np.int64)
    next_position, next_place = 0, 0
    for group in _groups(items):
        places = np.concatenate([item.places for item in group])
        inside = np.concatenate([item.inside for item in group], axis=1)
        owner = np.repeat(np.arange(len(group)), [len(item.places) for item in group])
        order = np.argsort(places)
        places, inside, owner = places[order], inside[:, order], owner[order]
        text = int(places[0]) - next_place
        positions[:, next_place : places[0]] = next_position + np.arange(text)
        next_position += text
        positions[:, places] = next_position + inside
        others = np.nonzero(owner != owner[-1])[0]
        last_run = inside[:, others[-1] + 1 if len(others) else 0 :]
        next_position += int(last_run.max()) + 1
        next_place = int(places[-1]) + 1
    positions[:, next_place:] = next_position + np.arange(length - next_place)
    return positions, int(positions.max()) + 1 - length


def _groups(items: Sequence[Item]) -> list[list[Item]]:
    """Items in prompt order, those together that no text parts."""
    groups: list[list[Item]] = []
    end = -1
    for item in sorted(items, key=lambda item: int(item.places[0])):
        if groups and item.places[0] <= end + 1:
            groups[-1].append(item)
        else:
            groups.append([item])
        end = max(end, int(item.places[-1]))
    return groups
