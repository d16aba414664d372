"""Units of a turn that are drawn from its limits ahead of delivery."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Literal

from services.gateway.turn.amounts import FRAME_MS, Amounts
from services.gateway.usage.limits import TurnTerms
from services.gateway.usage.operations import Steps, Taken, Vector
from services.gateway.usage.prices import Tariff

_UNLIMITED = 2**63
_TEXT_UNITS = {"answer_tokens": 1, "tokens": 1}
_SPEECH_UNITS = {"audio_out_ms": FRAME_MS, "audio_ms": FRAME_MS, "tokens": 1}
_TOKEN = Amounts(completion_text_tokens=1)
_FRAME = Amounts(completion_audio_tokens=1, audio_out_ms=FRAME_MS)


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


def grants_of(terms: TurnTerms, tariff: Tariff, text_tokens: int, speech_ms: int) -> tuple[Grant, Grant]:
    """Return those of a turn's text and of its speech, of which so much is drawn at a time."""
    text = Grant("text", text_tokens, _TEXT_UNITS, tariff.picos(_TOKEN))
    speech = Grant("speech", max(1, speech_ms // FRAME_MS), _SPEECH_UNITS, tariff.picos(_FRAME))
    for grant in (text, speech):
        if not terms.count(grant.units, grant.picos):
            grant.lift()
    return text, speech
