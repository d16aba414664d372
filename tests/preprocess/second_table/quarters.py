"""A picture of four quarters, and the colours at their middles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.preprocess.second_table.rows import Colour

HEIGHT, WIDTH = 24, 36
RED, GREEN, BLUE, GOLD = (200, 30, 40), (20, 180, 60), (30, 50, 190), (240, 200, 80)
BLACK, WHITE = (0, 0, 0), (255, 255, 255)
# The middles of the quarters, from the top left row by row.
_MIDDLES = ((6, 9), (6, 27), (18, 9), (18, 27))


def places(*colours: Colour) -> dict[tuple[int, int], Colour]:
    """Return the colours of the quarters, row by row."""
    return dict(zip(_MIDDLES, colours, strict=True))


QUARTERS = places(RED, GREEN, BLUE, GOLD)
# Turned a quarter to the right, as orientation 6 says: the bottom left is then at the top left.
TURNED = {(9, 6): BLUE, (9, 18): RED, (27, 6): GOLD, (27, 18): GREEN}


def quarters(values: Sequence[Any] = (RED, GREEN, BLUE, GOLD), kind: Any = np.uint8) -> npt.NDArray[Any]:
    """Return [24, 36, …]: four quarters of these values."""
    value = np.array(values, kind)
    halves = [np.repeat(np.stack((left, right)), WIDTH // 2, axis=0) for left, right in (value[:2], value[2:])]
    return np.repeat(np.stack(halves), HEIGHT // 2, axis=0)


def image(mode: str = "RGB") -> Image.Image:
    return Image.fromarray(quarters()).convert(mode)


def grey_places(*levels: int) -> dict[tuple[int, int], Colour]:
    return places(*((level, level, level) for level in levels))
