"""A model of the limiter in plain Python: it remembers every unit that was taken, and counts anew each time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from services.gateway.usage.limits import Limit

QUOTA_METRICS = ("requests", "tokens", "audio_ms", "micros")


@dataclass
class Taken:
    """Units that a turn took at one moment."""

    at_ms: int
    units: int


@dataclass
class ModelTurn:
    gateway: str
    limits: list[Limit]
    so_far: dict[str, int]
    until_ms: int
    taken: dict[str, list[Taken]] = field(default_factory=dict[str, list[Taken]])

    def held(self, metric: str) -> int:
        return sum(taken.units for taken in self.taken.get(metric, ()))


def day_of(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y%m%d")


def month_of(ms: int) -> str:
    return day_of(ms)[:6]


class Model:
    def __init__(self) -> None:
        self.now_ms = 0
        self.open: dict[str, ModelTurn] = {}
        self.ended: list[ModelTurn] = []
        self.records: list[str] = []

    def _turns(self, limit: Limit) -> list[ModelTurn]:
        """Return the turns, open and ended, that the limit holds for."""
        return [turn for turn in (*self.open.values(), *self.ended) if limit in turn.limits]

    def used(self, limit: Limit) -> int:
        kind = limit.kind
        if kind.span == "open":
            return sum(
                limit in turn.limits and turn.held(kind.metric) > 0 and turn.until_ms > self.now_ms
                for turn in self.open.values()
            )
        counts = {
            "minute": lambda at_ms: at_ms // 1000 >= self.now_ms // 1000 - 60,
            "day": lambda at_ms: day_of(at_ms) == day_of(self.now_ms),
            "month": lambda at_ms: month_of(at_ms) == month_of(self.now_ms),
        }[kind.span]
        return sum(
            taken.units
            for turn in self._turns(limit)
            for taken in turn.taken.get(kind.metric, ())
            if counts(taken.at_ms)
        )

    def allowed(self, limits: list[Limit], units: Mapping[str, int], most: int) -> int:
        """Return how many steps of `units` all limits allow."""
        steps = most
        for limit in limits:
            each = units.get(limit.kind.metric, 0)
            if each > 0:
                steps = min(steps, max(0, (limit.most - self.used(limit)) // each))
        return steps

    def take(self, turn: ModelTurn, units: Mapping[str, int], steps: int = 1) -> None:
        for metric, each in units.items():
            if each * steps:
                turn.taken.setdefault(metric, []).append(Taken(self.now_ms, each * steps))

    def give_back(self, turn: ModelTurn, metric: str, units: int) -> None:
        """Give back units of a turn, the last first."""
        for last in reversed(turn.taken.get(metric, [])):
            given = min(units, last.units)
            last.units -= given
            units -= given

    def end(self, turn_id: str, actual: dict[str, int]) -> None:
        """Give back what the turn did not use, and write its record."""
        turn = self.open.pop(turn_id)
        for metric in turn.taken:
            self.give_back(turn, metric, turn.held(metric) - actual.get(metric, 0))
        self.ended.append(turn)
        self.records.append(turn_id)
