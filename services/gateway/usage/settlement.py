"""The end of a turn's account."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.gateway.usage.limits import Limit
from services.gateway.usage.operations import SoFar


@dataclass(slots=True)
class Settlement:
    """What a turn really used. `is_sure`: it was admitted; else that is not known, and Redis decides."""

    turn_id: str
    limits: Sequence[Limit]
    actual: SoFar
    is_sure: bool
    ended_unix_ms: int
