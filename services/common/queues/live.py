"""Reads the state of workers and queues from Redis, for routing, metrics and autoscaling."""

from __future__ import annotations

from typing import Any

from antiphon.v1 import common_pb2, queue_pb2
from services.common.media_counts import least
from services.common.queues.keys import card_key, queue_prefix
from services.common.queues.known import KnownQueues
from services.common.queues.script import QueueScript
from services.common.queues.tickets import Lead, QueueName, QueueStats, ServedModel
from services.common.redis_client import RedisClient, redis_call
from services.common.stages import THINKER


class LiveWorkers:
    """Reads workers and queues, and keeps queues in the list. Every method raises Unavailable."""

    def __init__(self, redis: RedisClient, script: QueueScript) -> None:
        self._redis = redis
        self._script = script
        self._known = KnownQueues(redis)

    async def queues(self) -> list[QueueName]:
        """Return the queues that have a worker or are remembered."""
        return await self._known.all()

    async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]:
        found = await self._script(queue, "workers")
        workers = [queue_pb2.WorkerInfo.FromString(info) for info, _ in found]
        for worker, (_, free) in zip(workers, found, strict=True):
            worker.busy = worker.slots - free  # the grants of its last heartbeat count, too
        return sorted(workers, key=lambda worker: worker.worker_id)

    async def models(self, *, asleep: bool = False) -> dict[str, ServedModel]:
        """Return the models by name, each with its thinker's card and the least max_model_len and max_items of all.

        `asleep`: include models and stages without a worker that takes tickets, with the card of their last worker.
        """
        workers: list[queue_pb2.WorkerInfo] = []
        sleeping: set[tuple[str, str]] = set()
        for queue in await self.queues():
            here = await self.workers(queue)
            if asleep and all(worker.draining for worker in here):
                last = await self._last_worker(queue)
                here = [] if last is None else [last]
                sleeping |= {(worker.stage, worker.model) for worker in here}
            workers += here
        models: dict[str, ServedModel] = {}
        for model in sorted({worker.model for worker in workers}):
            here = [worker for worker in workers if worker.model == model]
            here.sort(key=lambda worker: worker.stage != THINKER)
            cards = [worker.card for worker in here if worker.HasField("card")]
            card = common_pb2.ModelCard(name=model)
            if cards:
                card.CopyFrom(cards[0])
                card.max_model_len = min((c.max_model_len for c in cards if c.max_model_len), default=0)
                if (max_items := least(cards)) is not None:
                    card.max_items.CopyFrom(max_items)
            stages = frozenset(worker.stage for worker in here)
            absent = frozenset(stage for stage in stages if (stage, model) in sleeping)
            models[model] = ServedModel(card, stages - absent, absent)
        return models

    async def remember(self, queue: QueueName) -> None:
        """Keep the queue in `queues`, and its last worker's card, for another REMEMBER_S. Do nothing where neither is
        known."""
        if await self._script(queue, "remember"):
            await self._known.keep(queue)

    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead:
        """Acquire or renew, for `ttl_s`, this scaler's lease to show the queue's wanted replicas."""
        return Lead(await self._script(queue, "lead", scaler_id, round(ttl_s * 1000)))

    async def _last_worker(self, queue: QueueName) -> queue_pb2.WorkerInfo | None:
        async with redis_call():
            info: Any = await self._redis.get(card_key(queue_prefix(queue.stage, queue.model)))
        return None if info is None else queue_pb2.WorkerInfo.FromString(info)

    async def stats(self, queue: QueueName) -> QueueStats:
        depth, oldest_ms, woken, known, *rates = await self._script(queue, "stats")
        arrivals_per_s, grants_per_s, refusals_per_s, hold_ms = map(float, rates)
        workers = await self.workers(queue)
        draining = [worker for worker in workers if worker.draining]
        return QueueStats(
            depth=depth,
            oldest_wait_s=oldest_ms / 1000,
            workers=len(workers),
            slots=sum(worker.slots for worker in workers),
            busy=sum(worker.busy for worker in workers),
            draining_workers=len(draining),
            draining_slots=sum(worker.slots for worker in draining),
            draining_busy=sum(worker.busy for worker in draining),
            arrivals_per_s=arrivals_per_s,
            refusals_per_s=refusals_per_s,
            grants_per_s=grants_per_s,
            hold_s=hold_ms / 1000,
            woken=bool(woken),
            known=bool(known),
        )
