"""Units of a turn that are drawn from its limits ahead of delivery."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from services.gateway.usage.operations import Steps, Taken, Vector

_UNLIMITED = 2**63


@dataclass(slots=True)
class Grant:
    """Units of one kind that were drawn ahead: never more than `size`, or as many as are delivered at once. Where fewer
    than a quarter of that is left, the next are drawn while these are used."""

    what: Literal["text", "speech"]
    size: int
    units: Vector
    """Of each metric, for one."""
    picos: int
    left: int = 0
    low: int = 0
    # Draws the next ones.
    drawing: asyncio.Task[Taken | None] | None = None

    def __post_init__(self) -> None:
        self.low = self.size // 4

    def lift(self) -> None:
        """Note that nothing limits these units."""
        self.left, self.low = _UNLIMITED, 0

    @property
    def is_limited(self) -> bool:
        return self.left < _UNLIMITED // 2

    @property
    def told_every(self) -> int:
        """After how many that were sent Redis is told: less than a draw, for more are sent while it is told."""
        return max(1, self.size * 3 // 4)

    def draw(self, count: int = 0) -> Steps:
        """Return what must be drawn for `size` to be left, or `count` where that is more."""
        return Steps(self.units, self.picos, max(self.size, count) - self.left, 0)
