"""The state that the runs of one turn share."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from antiphon.v1 import common_pb2
from services.gateway.turn.answer import Answer
from services.gateway.turn.events import EventQueue
from services.gateway.turn.leases import Leases
from services.gateway.turn.ports import Stages
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.timings import TurnTimes


@dataclass(slots=True, eq=False)
class TurnState:
    request: TurnRequest
    card: common_pb2.ModelCard
    stages: Stages
    leases: Leases
    events: EventQueue
    times: TurnTimes
    answer: Answer = field(default_factory=Answer)
    # Held while lost features are made again, so that two runs that miss them make them once.
    remaking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remaining_s(self) -> float:
        """Return the seconds until the deadline; the gateway gives every request one."""
        return max(self.request.context.deadline_unix_ms / 1000 - time.time(), 0.0)
