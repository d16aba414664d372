"""How a film's frames are turned and mirrored before they are shown: the display matrix that phones write."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from av.sidedata.sidedata import SideDataContainer, Type


class Turn(NamedTuple):
    """Swap the axes first, then mirror. Only quarter turns: a matrix between two of them counts as the nearer one."""

    swaps: bool = False
    mirrors_x: bool = False
    mirrors_y: bool = False

    def apply(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Return [height, width, 3] as it is shown; a view."""
        shown = pixels.swapaxes(0, 1) if self.swaps else pixels
        return shown[:: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1]


def turn_of(frame: Any) -> Turn:
    """Return how FFmpeg's frame is turned.

    Its matrix is three rows of 32-bit numbers: (x, y) of the file is shown at (a·x + c·y, b·x + d·y), where a, b begin
    the first row and c, d the second (libavutil/display.h).
    """
    # Not frame.side_data: it and the frame hold each other, and the decoder's threads, until the collector runs.
    side_data: Any = SideDataContainer
    matrix = side_data(frame).get(Type.DISPLAYMATRIX)
    if matrix is None or len(bytes(matrix)) < 36:
        return Turn()
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    if abs(b) > abs(a):
        return Turn(swaps=True, mirrors_x=c < 0, mirrors_y=b < 0)
    return Turn(mirrors_x=a < 0, mirrors_y=d < 0)
