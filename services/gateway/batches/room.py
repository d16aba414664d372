"""Whether a stage has room for a batch's line: batches take only what others leave.

In the queues a line waits in the class BATCH, so that any other ticket is taken before it. But a line that has a slot
keeps it, and whoever comes then waits. So lines begin only while a part of the stage's slots is free and nobody waits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from services.common.errors import Unavailable
from services.common.queues.tickets import QueueName, QueueStats
from services.common.stages import TALKER, THINKER

_LOOK_S = 0.25


class StatsSource(Protocol):
    async def stats(self, queue: QueueName) -> QueueStats:
        """Raise Unavailable where the store is away."""
        ...


Queues = tuple[QueueName, ...]


@dataclass(slots=True)
class _Turn:
    """Lines for the same queues come in the order of their asking. `lines`: how many there are."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    lines: int = 0


class Room:
    """`share`: the part of a stage's slots that may be busy, with whatever, when a line begins."""

    def __init__(self, stats: StatsSource, share: float) -> None:
        self._stats = stats
        self._share = share
        # Not older than _LOOK_S.
        self._looks: dict[QueueName, tuple[float, QueueStats]] = {}
        # Lines that came to a queue since the last look, which may not see them yet.
        self._come: dict[QueueName, int] = {}
        # Requests of lines that began, and have not come to the queue yet: they are in a stage before it.
        self._coming: dict[QueueName, set[str]] = {}
        # Of queues that lines wait for now.
        self._turns: dict[Queues, _Turn] = {}

    async def enter(self, queues: Queues, request_id: str) -> None:
        """Return once all the queues have room. The request has it until `leave`."""
        with self._turn(queues) as turn:
            async with turn.lock:
                while not await self._have_room(queues):  # noqa: ASYNC110  # nothing tells of slots that get free
                    await asyncio.sleep(_LOOK_S)
                self._begin(queues, request_id)

    async def enter_now(self, queues: Queues, request_id: str) -> bool:
        """Return whether all the queues have room and nobody waits for it. Then it is taken, until `leave`."""
        if not queues:
            return True
        with self._turn(queues) as turn:
            if turn.lines > 1:
                return False
            async with turn.lock:
                if not await self._have_room(queues):
                    return False
                self._begin(queues, request_id)
                return True

    def note_ticket(self, queue: QueueName, request_id: str) -> None:
        """Note that a request has a ticket in a queue: from the next look on its stats count it."""
        if request_id in self._coming.get(queue, ()):
            self._coming[queue].discard(request_id)
            self._come[queue] = self._come.get(queue, 0) + 1

    def leave(self, request_id: str) -> None:
        """Free what a request has not come to."""
        for queue in list(self._coming):
            self._coming[queue].discard(request_id)
            if not self._coming[queue]:
                del self._coming[queue]

    @contextmanager
    def _turn(self, queues: Queues) -> Generator[_Turn]:
        turn = self._turns.setdefault(queues, _Turn())
        turn.lines += 1
        try:
            yield turn
        finally:
            turn.lines -= 1
            if not turn.lines:
                del self._turns[queues]

    def _begin(self, queues: Queues, request_id: str) -> None:
        for queue in queues:
            self._coming.setdefault(queue, set()).add(request_id)

    async def _have_room(self, queues: Queues) -> bool:
        try:
            for queue in queues:
                stats = await self._look(queue)
                ours = self._come.get(queue, 0) + len(self._coming.get(queue, ()))
                used = stats.busy + stats.depth + ours
                if used >= max(1, int(stats.slots * self._share)):
                    return False
        except Unavailable:
            return False
        return True

    async def _look(self, queue: QueueName) -> QueueStats:
        now_s = time.monotonic()
        for one in [one for one, (at_s, _) in self._looks.items() if now_s - at_s >= _LOOK_S]:
            del self._looks[one]
            self._come.pop(one, None)
        if queue not in self._looks:
            stats = await self._stats.stats(queue)
            self._looks[queue] = time.monotonic(), stats
            self._come.pop(queue, None)
            return stats
        return self._looks[queue][1]


def queues_of(model: str, path: str, body: dict[str, Any]) -> Queues:
    """Return the queues of the slots that a line holds for long."""
    if path == "/v1/audio/speech":
        return (QueueName(TALKER, model),)
    modalities = body.get("modalities")
    speaks = isinstance(modalities, list) and "audio" in modalities
    return (QueueName(THINKER, model), QueueName(TALKER, model)) if speaks else (QueueName(THINKER, model),)
