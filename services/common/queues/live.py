"""Reads the state of workers and queues from Redis, for routing, metrics and autoscaling."""

from __future__ import annotations

from antiphon.v1 import common_pb2, queue_pb2
from services.common import input_limits
from services.common.media_counts import least
from services.common.queues.known import KnownQueues
from services.common.queues.script import MOST_TICKETS, QueueScript, QueueWorkers
from services.common.queues.tickets import Lead, QueueName, QueueStats, ServedModel
from services.common.redis_client import RedisClient
from services.common.stages import THINKER


class LiveWorkers:
    """Reads workers and queues, and keeps queues in the list. Every method raises Unavailable."""

    def __init__(self, redis: RedisClient, script: QueueScript) -> None:
        self._script = script
        self._known = KnownQueues(redis)

    async def queues(self) -> list[QueueName]:
        """Return the queues that have a worker or are remembered."""
        return await self._known.all()

    async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]:
        workers: list[queue_pb2.WorkerInfo] = []
        for worker, free in await self._script.workers(queue):
            worker.busy = worker.slots - free  # the grants of its last heartbeat count, too
            workers.append(worker)
        return sorted(workers, key=lambda worker: worker.worker_id)

    async def models(self, *, asleep: bool = False) -> dict[str, ServedModel]:
        """Return the models by name, each with its thinker's card and the least limits of all.

        `asleep`: include models and stages without a worker that takes tickets, with the card of their last worker.
        """
        served: dict[str, list[tuple[QueueName, QueueWorkers]]] = {}
        for queue, workers in await self._described():
            if workers.live or (asleep and workers.last):
                served.setdefault(queue.model, []).append((queue, workers))
        return {model: _served_model(model, served[model], asleep=asleep) for model in sorted(served)}

    async def _described(self) -> list[tuple[QueueName, QueueWorkers]]:
        by_shard: dict[int, list[QueueName]] = {}
        for queue in await self.queues():
            by_shard.setdefault(self._script.keys.shard_of(queue), []).append(queue)
        found: list[tuple[QueueName, QueueWorkers]] = []
        for shard, queues in by_shard.items():
            for begin in range(0, len(queues), MOST_TICKETS):
                some = queues[begin : begin + MOST_TICKETS]
                found += zip(some, await self._script.describe(shard, some), strict=True)
        return found

    async def remember(self, queue: QueueName) -> None:
        """Keep the queue in `queues`, and its last worker's card, for another REMEMBER_S. Do nothing where neither is
        known."""
        if await self._script.remember(queue):
            await self._known.keep(queue)

    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead:
        """Acquire or renew, for `ttl_s`, this scaler's lease to show the queue's wanted replicas."""
        return await self._script.lead(queue, scaler_id, ttl_s)

    async def stats(self, queue: QueueName) -> QueueStats:
        return await self._script.stats(queue)


def _served_model(name: str, queues: list[tuple[QueueName, QueueWorkers]], *, asleep: bool) -> ServedModel:
    """Return one model by the workers of its stages: the thinker's card, and the least limits of all."""
    stages, absent = set[str](), set[str]()
    starts_s: dict[str, float] = {}
    cards: list[common_pb2.ModelCard] = []
    thinkers: list[common_pb2.ModelCard] = []
    for queue, workers in sorted(queues, key=lambda row: (row[0].stage != THINKER, row[0].stage)):
        encoded = sorted(card for card in workers.cards if card)
        last = queue_pb2.WorkerInfo.FromString(workers.last)
        starts_s[queue.stage] = last.start_s
        if asleep and workers.live <= workers.draining:
            absent.add(queue.stage)
            encoded = [last.card.SerializeToString()] if last.HasField("card") else []
        else:
            stages.add(queue.stage)
        cards += map(common_pb2.ModelCard.FromString, encoded)
        if queue.stage == THINKER:
            thinkers = list(cards)
    card = common_pb2.ModelCard(name=name)
    if cards:
        card.CopyFrom(cards[0])
        card.max_model_len = min((c.max_model_len for c in cards if c.max_model_len), default=0)
        card.renders_messages = all(thinker.renders_messages for thinker in thinkers)
        card.structures_answers = all(thinker.structures_answers for thinker in thinkers)
        if (max_items := least(cards)) is not None:
            card.max_items.CopyFrom(max_items)
        if (limits := input_limits.least(cards)) is not None:
            card.input.CopyFrom(limits)
    return ServedModel(card, frozenset(stages), frozenset(absent), starts_s)
