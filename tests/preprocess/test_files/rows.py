"""A row of the table of files: how a file is made, and the right value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Samples = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """`shows`: the RGB pixels of a browser, each channel within `within`."""

    name: str
    make: Callable[[], bytes]
    shows: Callable[[], Pixels]
    within: int = 0


@dataclass(frozen=True)
class Sound:
    """`plays`: the samples at 16 kHz. The file's are as many, within `within`, and begin `late` samples later: an
    encoder's delay that its container does not tell. `alike`: the least correlation."""

    name: str
    make: Callable[[], bytes]
    plays: Callable[[], Samples]
    within: int = 0
    late: int = 0
    alike: float = 0.995


@dataclass(frozen=True)
class Film:
    """`frames`: the numbers of the frames that are seen. `turned`: the corner that is seen at the top left. `upright`:
    whether the picture is seen wider than high. `plays`: its sound, where it is asked for."""

    name: str
    make: Callable[[], bytes]
    frames: tuple[int, ...]
    turned: int = 0
    upright: bool = True
    heard: bool = False
    plays: Callable[[], Samples] | None = None
    within: int = 0


def tokens_of(samples: int) -> int:
    """Return the model's audio tokens of so many samples at 16 kHz: 13 of each 100 frames of 10 ms, and of the rest
    what three convolutions of stride 2 leave."""
    frames = samples // 160
    rest = frames % 100
    for _ in range(3):
        rest = (rest - 1) // 2 + 1
    return rest + frames // 100 * 13
