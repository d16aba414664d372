"""The gauges of the queues, which are read from the queues' store at each scrape."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from prometheus_client import Gauge

from services.common.errors import Unavailable
from services.common.queues.tickets import QueueName, QueueStats
from services.gateway import metrics
from services.gateway.directory import ModelDirectory
from services.gateway.http.health import Readiness

_TIMEOUT_S = 2.0
_GAUGES: tuple[tuple[Gauge, Callable[[QueueStats], float]], ...] = (
    (metrics.QUEUE_DEPTH, lambda stats: stats.depth),
    (metrics.QUEUE_AGE, lambda stats: stats.oldest_wait_s),
    (metrics.QUEUE_WORKERS, lambda stats: stats.workers),
    (metrics.QUEUE_SLOTS, lambda stats: stats.slots),
    (metrics.QUEUE_BUSY, lambda stats: stats.busy),
)


class StatsSource(Protocol):
    async def stats(self, queue: QueueName) -> QueueStats:
        """Raise Unavailable where the store is away."""
        ...


class QueueGauges:
    def __init__(self, directory: ModelDirectory, source: StatsSource, readiness: Readiness) -> None:
        self._directory = directory
        self._source = source
        self._readiness = readiness

    async def refresh(self) -> None:
        """Set the gauges. Those of the queues are absent while the store is away."""
        metrics.READY.set(not await self._readiness.reason())
        queues: dict[tuple[str, str], QueueStats] = {}
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                for name, model in (await self._directory.models()).items():
                    for stage in sorted(model.stages | model.asleep | model.expected):
                        queues[stage, name] = await self._source.stats(QueueName(stage, name))
        except (Unavailable, TimeoutError):
            queues = {}
        for gauge, value in _GAUGES:
            # Set new values before removing old ones: a concurrent scrape must not find a gap.
            for labels, stats in queues.items():
                gauge.labels(*labels).set(value(stats))
            for labels in [tuple(s.labels.values()) for m in gauge.collect() for s in m.samples]:
                if labels not in queues:
                    gauge.remove(*labels)
