"""Watches queues: each look gives the policy a load; whoever asks gets its decision, whoever listens each change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Protocol

from services.common.errors import Unavailable
from services.common.queues.tickets import QueueName, QueueStats
from services.scaler import metrics
from services.scaler.metadata import Trigger
from services.scaler.policy import Decision, Load, ReplicaPolicy

REMEMBER_EVERY_S = 60.0
AGAIN_S = 5.0
"""How often listeners are told again that a stage is needed of which no worker lives: KEDA may have failed to start
one, and would find out with its next poll only."""

logger = logging.getLogger(__name__)


class Queues(Protocol):
    """services.common.queues' LiveWorkers is one. Both methods raise Unavailable."""

    async def stats(self, queue: QueueName) -> QueueStats: ...

    async def remember(self, queue: QueueName) -> None: ...


def load_from(stats: QueueStats, at_s: float) -> Load:
    return Load(
        at_s=at_s,
        waiting=stats.depth,
        head_age_s=stats.oldest_wait_s,
        workers=stats.workers - stats.draining_workers,
        slots=stats.slots - stats.draining_slots,
        busy=stats.busy - stats.draining_busy,
        arrivals_per_s=stats.arrivals_per_s + stats.refusals_per_s,
        hold_s=stats.hold_s,
        woken=stats.woken,
        known=stats.known,
    )


class Watch:
    """One ScaledObject's queue. `run` looks at it until cancelled, through any absence of Redis."""

    def __init__(self, trigger: Trigger, queues: Queues, *, look_s: float, idle_look_s: float) -> None:
        self.trigger = trigger
        self.listeners = 0
        # When someone last asked, monotonic seconds.
        self.asked_s = time.monotonic()
        self._queues = queues
        self._look_s = look_s
        self._idle_look_s = idle_look_s
        self._policy = ReplicaPolicy(trigger.terms)
        self._decision: Decision | None = None
        self._unserved = False
        self._remembered_s = float("-inf")
        self._looking = asyncio.Lock()
        self._looked = asyncio.Condition()
        self._closed = False

    async def decide(self) -> Decision:
        """As of now. Raises Unavailable."""
        self.asked_s = time.monotonic()
        return await self._look()

    async def active(self) -> bool:
        """As of now or, while Redis is away, as last seen: what runs goes on meanwhile. Raises Unavailable where
        nothing was seen yet."""
        try:
            return (await self.decide()).active
        except Unavailable:
            if self._decision is None:
                raise
            return self._decision.active

    async def activity(self) -> AsyncGenerator[bool]:
        """Whether the stage is needed: once it is known, and with each change, until `close`."""
        told: bool | None = None
        told_s = 0.0
        self.listeners += 1
        try:
            while True:
                async with self._looked:
                    await self._looked.wait_for(partial(self._has_news, told, told_s))
                if self._closed or self._decision is None:
                    return
                told, told_s = self._decision.active, time.monotonic()
                yield told
        finally:
            self.listeners -= 1
            self.asked_s = time.monotonic()

    def _has_news(self, told: bool | None, told_s: float) -> bool:
        if self._closed or self._decision is None:
            return self._closed
        return self._decision.active != told or (self._unserved and time.monotonic() - told_s >= AGAIN_S)

    async def run(self) -> None:
        while True:
            try:
                decision = await self._look()
                pause_s = self._look_s if decision.active else self._idle_look_s
            except Unavailable:
                pause_s = self._look_s
            await asyncio.sleep(pause_s)

    async def close(self) -> None:
        """Ends `activity` for all that listen."""
        self._closed = True
        async with self._looked:
            self._looked.notify_all()

    async def _look(self) -> Decision:
        queue = self.trigger.queue
        async with self._looking:
            try:
                if time.monotonic() - self._remembered_s >= REMEMBER_EVERY_S:
                    await self._queues.remember(queue)
                    self._remembered_s = time.monotonic()
                stats = await self._queues.stats(queue)
            except Unavailable:
                metrics.FAILED_LOOKS.labels(queue.stage, queue.model).inc()
                raise
            load = load_from(stats, time.monotonic())
            before, decision = self._decision, self._policy.decide(load)
            self._decision = decision
            self._unserved = decision.active and load.workers == 0
        if before is None or before.replicas != decision.replicas:
            logger.info(
                "%s: %d replicas (%d waiting for %.1f s, %d of %d slots busy)",
                queue, decision.replicas, load.waiting, load.head_age_s, load.busy, load.slots,
            )  # fmt: skip
        metrics.show(queue, stats, decision)
        async with self._looked:
            self._looked.notify_all()
        return decision
