"""Banks of speech on the disk: clips in files of a hundred."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from training.files import save_arrays
from training.mind.arrays import Samples

SHARD = 100


@dataclass(frozen=True)
class Clip:
    """Speech, float32 [samples] at 16 kHz, its words in small letters, and its voice."""

    text: str
    voice: str
    samples: Samples


def write_clips(folder: Path, count: int, seed: int, make: Callable[[random.Random], Clip]) -> None:
    """Write `count` clips in files of a hundred; files that are there stay."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(-(-count // SHARD)):
        path = folder / f"{shard:04d}.npz"
        if path.exists():
            continue
        clips = [
            make(random.Random(f"{seed} {shard * SHARD + index}")) for index in range(min(SHARD, count - shard * SHARD))
        ]
        levels = [np.clip(clip.samples * 32767, -32768, 32767).astype(np.int16) for clip in clips]
        save_arrays(
            path,
            samples=np.concatenate(levels),
            lengths=[len(one) for one in levels],
            texts=[clip.text for clip in clips],
            voices=[clip.voice for clip in clips],
        )
        print(f"{folder.name}: {shard * SHARD + len(clips)} clips", flush=True)


def read_clips(folder: Path, skip: int = 0) -> Iterator[Clip]:
    """Yield all clips that are there, but for those of the first `skip` files."""
    for path in sorted(folder.glob("[0-9]*[0-9].npz"))[skip:]:
        with np.load(path) as file:
            starts = np.cumsum(file["lengths"])[:-1]
            sounds = np.split(file["samples"], starts)
            texts, voices = file["texts"].tolist(), file["voices"].tolist()
        for text, voice, levels in zip(texts, voices, sounds, strict=True):
            yield Clip(text, voice, levels.astype(np.float32) / np.float32(32767))
