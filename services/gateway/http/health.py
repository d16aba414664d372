"""/health/live, /health/ready and /metrics: open to all, without a key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from prometheus_client import CONTENT_TYPE_LATEST, Gauge, generate_latest
from starlette.types import Receive, Scope, Send

from services.common.errors import Unavailable
from services.common.queues.tickets import QueueName, QueueStats
from services.gateway import metrics
from services.gateway.directory import ModelDirectory
from services.gateway.http.respond import send_bytes, send_json
from services.gateway.turn.catalogue import is_whole
from services.gateway.turn.turns import Turns

_SCRAPE_TIMEOUT_S = 2.0
_OBSERVE_S = 5.0


class Readiness:
    """True when a request could be answered: not draining, the queues' store answers, and a model has a live worker
    for every stage of its kind, or had one and gets one on demand (ANTIPHON_COLD_START_S)."""

    def __init__(self, directory: ModelDirectory, turns: Turns) -> None:
        self._directory = directory
        self._turns = turns

    async def reason(self) -> str:
        """Why not; "" = ready."""
        if self._turns.draining:
            return "draining"
        try:
            async with asyncio.timeout(_SCRAPE_TIMEOUT_S):
                models = await self._directory.models()
        except (Unavailable, TimeoutError):
            return "the queues' store does not answer"
        return (
            "" if any(is_whole(model) for model in models.values()) else "no model has live workers for all its stages"
        )


class Live:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})


class Ready:
    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = await self._readiness.reason()
        if reason:
            await send_json(send, 503, {"status": "unavailable", "reason": reason}, {"retry-after": "1"})
        else:
            await send_json(send, 200, {"status": "ok"})


class StatsSource(Protocol):
    async def stats(self, queue: QueueName) -> QueueStats:
        """Raises Unavailable."""
        ...


class Metrics:
    """All metrics of this process, those of the queues read at the scrape."""

    def __init__(self, directory: ModelDirectory, stats: StatsSource, readiness: Readiness) -> None:
        self._directory = directory
        self._stats = stats
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await observe(self._directory, self._stats, self._readiness)
        await send_bytes(send, 200, generate_latest(), CONTENT_TYPE_LATEST)


async def observe_forever(directory: ModelDirectory, stats: StatsSource, readiness: Readiness) -> None:
    """Keeps what is read from the queues' store fresh for those who scrape the metrics' own port."""
    while True:
        await observe(directory, stats, readiness)
        await asyncio.sleep(_OBSERVE_S)


async def observe(directory: ModelDirectory, stats: StatsSource, readiness: Readiness) -> None:
    """Sets the gauges that are read from the queues' store; those of queues are absent while it is away."""
    metrics.READY.set(not await readiness.reason())
    queues: dict[tuple[str, str], QueueStats] = {}
    try:
        async with asyncio.timeout(_SCRAPE_TIMEOUT_S):
            for name, model in (await directory.models()).items():
                for stage in sorted(model.stages | model.asleep):
                    queues[stage, name] = await stats.stats(QueueName(stage, name))
    except (Unavailable, TimeoutError):
        queues = {}
    for gauge, value in _QUEUE_GAUGES:
        # Set first, then drop: a scrape in between, by the other port's thread, must not find a gap.
        for labels, seen in queues.items():
            gauge.labels(*labels).set(value(seen))
        for labels in [tuple(s.labels.values()) for m in gauge.collect() for s in m.samples]:
            if labels not in queues:
                gauge.remove(*labels)


_QUEUE_GAUGES: tuple[tuple[Gauge, Callable[[QueueStats], float]], ...] = (
    (metrics.QUEUE_DEPTH, lambda seen: seen.depth),
    (metrics.QUEUE_AGE, lambda seen: seen.oldest_wait_s),
    (metrics.QUEUE_WORKERS, lambda seen: seen.workers),
    (metrics.QUEUE_SLOTS, lambda seen: seen.slots),
    (metrics.QUEUE_BUSY, lambda seen: seen.busy),
)
