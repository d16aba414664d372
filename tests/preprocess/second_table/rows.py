"""A row of the second table: how a file is made, and what is right at places in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Colour = tuple[int, int, int]
Make = Callable[[], bytes]


@dataclass(frozen=True)
class Shown:
    """A picture. `places`: the colour, each channel within `within`, at (row, column)."""

    name: str
    make: Make
    places: Mapping[tuple[int, int], Colour]
    size: tuple[int, int] = (24, 36)
    within: int = 0


@dataclass(frozen=True)
class Heard:
    """A sound: how many `samples` there are at 16 kHz, within `within`, and where its impulse is, within `near`. The
    impulse is at least `height` high, and all else is less than half of it."""

    name: str
    make: Make
    samples: int
    click: int
    within: int
    near: int
    height: float


@dataclass(frozen=True)
class Seen:
    """A film. `frames`: the numbers of the frames that are sampled, `turned`: the corner at the top left, `click`:
    where its sound has an impulse at 16 kHz, None = its sound is not asked for."""

    name: str
    make: Make
    frames: tuple[int, ...]
    turned: int = 0
    click: int | None = None
    # Frames a second that are asked for.
    fps: float | None = None


@dataclass(frozen=True)
class Refused:
    """A file that is not taken. `words`: of the message."""

    name: str
    kind: Literal["image", "audio", "video"]
    make: Make
    words: str
