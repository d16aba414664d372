"""What the operations of lua/ take and answer. What is made for each turn is not frozen: that takes thrice as long."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from services.gateway.usage.limits import Limit, Window

Vector = Mapping[str, int]
"""Metric → units; see lua/counts.lua."""


@dataclass(slots=True)
class Opened:
    """`status`: "ok"; "refused" by `limit`, which lets one pass after `wait_ms` (-1 = never); "missing", the counts of
    `subjects`; or "closed"."""

    status: Literal["ok", "refused", "missing", "closed"]
    limit: Limit | None = None
    wait_ms: int = 0
    windows: Sequence[Window] = ()
    """Of the limits that headers tell of."""
    subjects: Sequence[str] = ()
    sets_aside: bool = False
    """What was to be set aside was taken."""
    leaves_places: bool = False
    """Limits on what runs at a time have ample room for others."""


@dataclass(frozen=True, slots=True)
class Taken:
    """`steps` were taken, and no more because of `limit`, which lets one pass after `wait_ms`."""

    steps: int
    limit: Limit | None = None
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """`status`: "ok": what was `taken` of each part of the draw; "missing" and "closed" as above; "unknown": Redis has
    lost the account."""

    status: Literal["ok", "missing", "closed", "unknown"]
    taken: Sequence[Taken] = ()
    subjects: Sequence[str] = ()


@dataclass(slots=True)
class Steps:
    """A part of a draw: `units` of each metric a step, at a cost of `picos` each. At most `most` steps, or none, also
    of the parts after it, where there are fewer than `least`. Negative ones are given back."""

    units: Vector
    picos: int
    most: int = 1
    least: int = 1

    @property
    def step(self) -> dict[str, int]:
        """One step, as lua/ reads it."""
        return {**self.units, "picos": self.picos}


@dataclass(frozen=True, slots=True)
class Draw:
    """`held_picos` is the exact cost of what the turn holds. `sequence` numbers a turn's draws from 1."""

    parts: Sequence[Steps]
    held_picos: int
    sequence: int


@dataclass(slots=True)
class SoFar:
    """What a turn has used, the serialized record that says so, and what it costs by that."""

    units: Vector
    record: bytes
    cost_micros: int = 0


@dataclass(frozen=True, slots=True)
class Renewal:
    turn_id: str
    so_far: SoFar


@dataclass(frozen=True, slots=True)
class Renewed:
    """Turns that Redis has lost, turns that were closed by another, and subjects whose counts are missing."""

    unknown: Sequence[str]
    closed: Sequence[str]
    missing: Sequence[str]


@dataclass(frozen=True, slots=True)
class KnownUse:
    """What a subject used in the present period of a span, by metric."""

    subject: str
    span: Literal["day", "month"]
    units: Vector
