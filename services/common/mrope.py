"""Positions of a prompt's tokens for multimodal RoPE, as transformers 5.19 counts them (get_rope_index).

Positions are float32, as in transformers: where the seconds of a temporal patch times position_id_per_seconds is no
whole number, the positions of a video and of everything after it are fractional.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Indices = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class MediaItem:
    """The placeholder tokens of one media item.

    indices: where they stand in the prompt, ascending, [n]. positions: time, height and width of each, from 0, [3, n].
    is_audio: whether it is a sound, which comes after a video where both begin together.
    """

    indices: Indices
    positions: Floats
    is_audio: bool = False


def audio_positions(tokens: int) -> Floats:
    """Return the positions of a sound's tokens, [3, tokens]."""
    return np.tile(np.arange(tokens, dtype=np.float32), (3, 1))


def vision_positions(frames: int, height: int, width: int, *time_scale: float) -> Floats:
    """Return the positions of an image's or a video's tokens, [3, frames * height * width].

    `height` and `width` count merged patches. `time_scale` are the factors between a temporal patch's index and its
    position, multiplied one after the other in float32, as transformers rounds.
    """
    positions = np.indices((frames, height, width)).reshape(3, -1).astype(np.float32)
    for factor in time_scale:
        positions[0] *= np.float32(factor)
    return positions


def join_sounds(items: Sequence[MediaItem]) -> list[MediaItem]:
    """Return the items in prompt order, with sounds that follow each other without a gap as one.

    They are windows of one sound: text parts two sounds.
    """
    joined: list[MediaItem] = []
    for item in sorted(items, key=lambda item: int(item.indices[0])):
        if joined and item.is_audio and joined[-1].is_audio and int(joined[-1].indices[-1]) + 1 == int(item.indices[0]):
            indices = np.concatenate([joined.pop().indices, item.indices])
            joined.append(MediaItem(indices, audio_positions(len(indices)), is_audio=True))
        else:
            joined.append(item)
    return joined


def rope_positions(length: int, items: Sequence[MediaItem]) -> Floats:
    """Return the positions of a prompt of `length` tokens, [3, length].

    Text counts on by one, and an item begins at the next position. Two items with no text between them are a video and
    its sound: they begin together, and their positions are handed out in order of time. The text after an item goes on
    after the largest position of the item's last run of one modality. (For a video with sound, the largest of both
    would be expected, but this is what transformers does.)
    """
    positions = np.empty((3, length), dtype=np.float32)
    next_position, next_index = np.float32(0), 0
    for group in _groups(items):
        indices = np.sort(np.concatenate([item.indices for item in group]))
        text = int(indices[0]) - next_index
        positions[:, next_index : indices[0]] = next_position + np.arange(text, dtype=np.float32)
        next_position += np.float32(text)
        group.sort(key=lambda item: item.is_audio)
        inside, last_run = _merge_by_time([item.positions + next_position for item in group])
        positions[:, indices] = inside
        next_position = last_run.max() + np.float32(1)
        next_index = int(indices[-1]) + 1
    positions[:, next_index:] = next_position + np.arange(length - next_index, dtype=np.float32)
    return positions


def position_delta(positions: Floats) -> float:
    """Return what the position of a generated token is more than its index."""
    return float(positions.max() + np.float32(1)) - positions.shape[1]


def _groups(items: Sequence[MediaItem]) -> list[list[MediaItem]]:
    """Return the items in prompt order, those together that no text separates."""
    groups: list[list[MediaItem]] = []
    end = -1
    for item in sorted(items, key=lambda item: int(item.indices[0])):
        if groups and item.indices[0] <= end + 1:
            groups[-1].append(item)
        else:
            groups.append([item])
        end = max(end, int(item.indices[-1]))
    return groups


def _merge_by_time(items: Sequence[Floats]) -> tuple[Floats, Floats]:
    """Return all positions in order of time, the first item's first where two are equal, and of these positions those
    after the last change from one item to the other."""
    if len(items) == 1:
        return items[0], items[0]
    owner = np.repeat(np.arange(len(items)), [item.shape[1] for item in items])
    merged = np.concatenate(items, axis=1)
    order = np.argsort(merged[0], kind="stable")
    merged, owner = merged[:, order], owner[order]
    others = np.nonzero(owner != owner[-1])[0]
    return merged, merged[:, others[-1] + 1 if len(others) else 0 :]
