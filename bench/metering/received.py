"""What one client received of one turn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.metering.plan import Plan

Ended = Literal["ok", "cancelled", "failed", "refused", "broken"]
"""`failed`: the gateway told of an error of the turn; `refused`: that it can't serve now, or that a limit is reached;
`broken`: the connection broke."""


@dataclass
class Received:
    plan: Plan
    # The gateway's name, and how often it had died before.
    gateway: str
    deaths: int
    turn_id: str = ""
    ended: Ended = "broken"
    text_tokens: int = 0
    frames: int = 0
    # As the gateway's usage says it; -1 = it said nothing.
    prompt_tokens: int = -1
    limit: str = ""
    error: str = ""
    # Whether its gateway died while it was asked.
    met_death: bool = False
    # Of time.monotonic().
    began_s: float = 0.0
    ended_s: float = 0.0
