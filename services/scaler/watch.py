"""Watches queues. Each look gives the policy a load. Callers get its decision, listeners each change."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from functools import partial
from typing import Protocol

from services.common.errors import Unavailable
from services.common.queues.tickets import Lead, QueueName, QueueStats
from services.scaler import metrics
from services.scaler.metadata import Trigger
from services.scaler.policy import Decision, QueueLoad, ReplicaPolicy
from services.scaler.share import Share

LOOK_TIMEOUT_S = 1.8
"""Limit of all Redis calls of one look, so that the scaler answers within 2 s."""

RETRY_AFTER_S = 1.0

SCALE_DOWN_S = 3.0
"""How long a lower number is held back where someone prepares for it. The HPA asks every 15 s."""

REMEMBER_EVERY_S = 60.0
AGAIN_S = 5.0
"""How often listeners are told again that a stage without a live worker is needed. KEDA may have failed to start one,
and would notice only with its next poll."""

logger = logging.getLogger(__name__)


class Queues(Protocol):
    """services.common.queues' LiveWorkers is one. All methods raise Unavailable."""

    async def stats(self, queue: QueueName) -> QueueStats: ...

    async def remember(self, queue: QueueName) -> None: ...

    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead: ...


class ScaleDownListener(Protocol):
    async def announce(self, queue: QueueName) -> None:
        """Note that the queue's stage is about to lose replicas, but not all of them. Must not raise."""
        ...


def load_from(stats: QueueStats, at_s: float) -> QueueLoad:
    return QueueLoad(
        at_s=at_s,
        waiting=stats.depth - stats.yielding,  # more slots would not help the rest
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
    """Watches one trigger's queue. `run` looks at it until cancelled, also while Redis is away."""

    def __init__(
        self,
        trigger: Trigger,
        queues: Queues,
        *,
        look_s: float,
        idle_look_s: float,
        share: Share,
        on_scale_down: ScaleDownListener | None = None,
    ) -> None:
        self.trigger = trigger
        self.listeners = 0
        # When someone last asked, monotonic seconds.
        self.asked_s = time.monotonic()
        self._queues = queues
        self._look_s = look_s
        self._idle_look_s = idle_look_s
        self._share = share
        self._on_scale_down = on_scale_down
        # Since when the policy has wanted fewer replicas than callers know, monotonic seconds; None = it does not.
        self._lower_since_s: float | None = None
        self._policy = ReplicaPolicy(trigger.terms)
        self._decision: Decision | None = None
        self._unserved = False
        self._remembered_s = float("-inf")
        self._looking: asyncio.Task[Decision] | None = None
        self._looked = asyncio.Condition()
        self._closed = False

    async def decide(self) -> Decision:
        """Look now and return the decision. Raise Unavailable."""
        self.asked_s = time.monotonic()
        return await self._look()

    async def active(self) -> bool:
        """Return whether the stage is needed now or, while Redis is away, was at the last look.

        Raise Unavailable where no look has succeeded yet.
        """
        try:
            return (await self.decide()).active
        except Unavailable:
            if self._decision is None:
                raise
            return self._decision.active

    async def activity(self) -> AsyncGenerator[bool]:
        """Yield whether the stage is needed: after the first look, and with each change, until `close`."""
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
        """End `activity` for all listeners."""
        self._closed = True
        metrics.hide_wanted(self.trigger.queue, self)
        async with self._looked:
            self._looked.notify_all()

    async def _look(self) -> Decision:
        """Look and return the decision. Concurrent callers share one look and get the same result or Unavailable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look_now(), name=f"look {self.trigger.queue}")
            self._looking.add_done_callback(lambda look: look.cancelled() or look.exception())
        return await asyncio.shield(self._looking)

    async def _look_now(self) -> Decision:
        queue = self.trigger.queue
        try:
            async with asyncio.timeout(LOOK_TIMEOUT_S):
                if time.monotonic() - self._remembered_s >= REMEMBER_EVERY_S:
                    await self._queues.remember(queue)
                    self._remembered_s = time.monotonic()
                stats = await self._queues.stats(queue)
                shows = await self._share.leads(self._queues, queue)
        except (Unavailable, TimeoutError):
            metrics.FAILED_LOOKS.labels(queue.stage, queue.model).inc()
            if self._share.has_ended():
                metrics.hide_wanted(queue, self)
            raise Unavailable("Redis is away", retry_after_s=RETRY_AFTER_S) from None
        load = load_from(stats, time.monotonic())
        before, decision = self._decision, self._policy.decide(load)
        self._decision = decision = await self._hold_back(decision, load.at_s, shows)
        self._unserved = decision.active and load.workers == 0
        if before is None or before.replicas != decision.replicas:
            logger.info(
                "%s: %d replicas (%d waiting for %.1f s, %d of %d slots busy)",
                queue, decision.replicas, load.waiting, load.head_age_s, load.busy, load.slots,
            )  # fmt: skip
        if not self._closed:
            metrics.show(queue, stats)
            if shows:
                metrics.show_wanted(queue, self, decision)
            else:
                metrics.hide_wanted(queue, self)
        async with self._looked:
            self._looked.notify_all()
        return decision

    async def _hold_back(self, decision: Decision, at_s: float, shows: bool) -> Decision:
        """Return what callers may know: a lower number SCALE_DOWN_S after it was announced. Zero is told at once."""
        before, listener = self._decision, self._on_scale_down
        if before is None or listener is None or not shows or not 0 < decision.replicas < before.replicas:
            self._lower_since_s = None
            return decision
        if self._lower_since_s is None:
            self._lower_since_s = at_s
            await listener.announce(self.trigger.queue)
        if at_s - self._lower_since_s < SCALE_DOWN_S:
            return before
        self._lower_since_s = None
        return decision
