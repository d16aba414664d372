"""Whether a stage has room for a batch's line: batches take only what others leave.

In the queues a line waits in the class BATCH, so that any other ticket is taken before it. But a line that has a slot
keeps it, and whoever comes then waits. So lines begin only while a part of the stage's slots is free and nobody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any, Protocol

from services.common.errors import Unavailable
from services.common.queues.tickets import QueueName, QueueStats
from services.common.stages import TALKER, THINKER

_LOOK_S = 0.25


class StatsSource(Protocol):
    async def stats(self, queue: QueueName) -> QueueStats:
        """Raise Unavailable where the store is away."""
        ...


class Room:
    """`share`: the part of a stage's slots that may be busy, with whatever, when a line begins."""

    def __init__(self, stats: StatsSource, share: float) -> None:
        self._stats = stats
        self._share = share
        self._looks: dict[QueueName, tuple[float, QueueStats]] = {}
        # Lines that began since the last look, which may not see them yet.
        self._begun: dict[QueueName, int] = {}
        self._turns: dict[tuple[QueueName, ...], asyncio.Lock] = {}

    async def wait(self, model: str, stages: Iterable[str]) -> None:
        """Return once all the stages have room. Lines for the same ones come in the order of their asking."""
        queues = tuple(QueueName(stage, model) for stage in stages)
        async with self._turns.setdefault(queues, asyncio.Lock()):
            while not await self._have_room(queues):  # noqa: ASYNC110  # nothing tells of slots that get free
                await asyncio.sleep(_LOOK_S)  # nothing tells of slots that get free elsewhere
            for queue in queues:
                self._begun[queue] = self._begun.get(queue, 0) + 1

    async def _have_room(self, queues: Iterable[QueueName]) -> bool:
        try:
            for queue in queues:
                stats = await self._look(queue)
                used = stats.busy + stats.depth + self._begun.get(queue, 0)
                if used >= max(1, int(stats.slots * self._share)):
                    return False
        except Unavailable:
            return False
        return True

    async def _look(self, queue: QueueName) -> QueueStats:
        at_s, stats = self._looks.get(queue, (float("-inf"), None))
        if stats is None or time.monotonic() - at_s >= _LOOK_S:
            stats = await self._stats.stats(queue)
            self._looks[queue] = time.monotonic(), stats
            self._begun.pop(queue, None)
        return stats


def stages_of(path: str, body: dict[str, Any]) -> tuple[str, ...]:
    """Return the stages with slots that a line holds for long."""
    if path == "/v1/audio/speech":
        return (TALKER,)
    modalities = body.get("modalities")
    speaks = isinstance(modalities, list) and "audio" in modalities
    return (THINKER, TALKER) if speaks else (THINKER,)
