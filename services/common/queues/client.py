"""The gateway's side of the queues: it asks for slots and waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable

from antiphon.v1 import queue_pb2
from services.common.errors import TimedOut, Unavailable
from services.common.queues.gateway_shard import RETRY_S, GatewayShard, finish_all
from services.common.queues.known import KnownQueues
from services.common.queues.live import LiveWorkers
from services.common.queues.script import Mode, QueueScript
from services.common.queues.ticket_queue import WaitingTicket
from services.common.queues.tickets import Grant, QueueLimits, QueueName, QueueStats, ServedModel, TicketSpec
from services.common.queues.usual_costs import UsualCosts
from services.common.redis_client import RETRY_AFTER_S, RedisClient

_log = logging.getLogger(__name__)


class QueueClient:
    """Slots of all queues for one gateway process.

    `run()` must run in the background: it receives grants, sends the heartbeat that keeps this gateway's tickets alive,
    puts back tickets that Redis lost, and removes those that nobody waits for. `gateway_id` must be new with each start
    of the process. One connection waits for the grants of all queues; on a Redis Cluster, one for each shard.
    """

    def __init__(self, redis: RedisClient, gateway_id: str, limits: QueueLimits | None = None) -> None:
        self._redis = redis
        self._gateway_id = gateway_id
        self._limits = limits or QueueLimits()
        self._usual = UsualCosts()
        self._script = QueueScript(redis)
        self._known = KnownQueues(redis)
        self._live = LiveWorkers(redis, self._script)
        self._shards: dict[int, GatewayShard] = {}
        self._started = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        # Set while Redis answers, as far as is known.
        self._reachable = asyncio.Event()
        self._reachable.set()
        self.on_ticket: Callable[[QueueName, str], None] = lambda _queue, _request_id: None
        """Called when a request has got a ticket in a queue."""

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Wait for a slot. Cancelling the wait removes the ticket, and gives back a grant that comes too late.

        Open the lease at once, and `settle` what the turn cost when it ends; or `give_back` the grant.

        Raise Capacity (queue or tenant at its limit, or the wait would pass the deadline), TimedOut (the deadline
        passed), Unavailable (Redis is away, or no worker serves this queue).
        """
        return await self._wait_for_grant(queue, spec, mode="new")

    async def reacquire(self, grant: Grant) -> Grant:
        """Wait again, at the front of the priority class, after the grant's worker was lost or refused it.

        The old grant stays as it is: give it back if no worker opened it.

        Raise what `acquire` raises, but wait while Redis is away, and longer where no worker serves this queue: a turn
        that a client has heard part of is worth it.
        """
        return await self._wait_for_grant(
            grant.queue, grant.spec, mode="front", arrival_us=grant.arrival_us, avoid=grant.worker_id
        )

    def give_back(self, grant: Grant, *, spent: bool = False) -> None:
        """Free a slot that will not be used, and refund its cost, unless it is `spent`: the worker may have worked.

        Return at once; the slot is free some milliseconds later. An opened lease ends with its call, not by this.
        """
        if self._tasks is not None:
            self._shard_of(grant.queue).discard(grant.queue, grant.ticket_id, spent=spent)

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charge the tenant what the turn cost in place of what its ticket said. Lost while Redis is away."""
        self._usual.note(grant.queue, grant.spec, cost)
        by = self._limits.charge(grant.spec.tenant, cost - grant.spec.cost)
        if by == 0:
            return
        try:
            shard = self._shard_of(grant.queue)
            await shard.settle(grant.queue, grant.spec.tenant, self._limits.priority_of(grant.spec), by)
        except Unavailable:
            _log.warning("Redis is away: the cost of a turn was not settled")

    async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]:
        """Return the queue's live workers, with those that drain. Raise Unavailable."""
        return await self._live.workers(queue)

    async def models(self) -> dict[str, ServedModel]:
        """Return what live workers serve, by model name; with `cold_start_s`, also what workers yet to start serve.

        Raise Unavailable.
        """
        return await self._live.models(asleep=self._limits.cold_start_s > 0)

    async def wake(self, queue: QueueName) -> None:
        """Tell the autoscaler that a ticket for this queue will come. Lost while Redis is away."""
        if self._limits.cold_start_s > 0 and self._reachable.is_set():
            try:
                await self._script.wake(queue, self._limits.cold_start_s)
            except Unavailable:
                self._reachable.clear()  # the ticket need not wait to find out

    async def held(self, queue: QueueName) -> dict[str, int]:
        """Return how many slots of the queue's workers each tenant holds. Raise Unavailable."""
        return await self._script.held(queue)

    async def stats(self, queue: QueueName) -> QueueStats:
        """Return the queue's numbers. Raise Unavailable."""
        return await self._live.stats(queue)

    async def run(self) -> None:
        """Run until cancelled. Then waiters get Unavailable, and Redis forgets this gateway."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                self._started.set()
                tasks.create_task(self._beat(), name="queue-beat")
        finally:
            self._tasks = None
            await self._close()

    async def _wait_for_grant(
        self, queue: QueueName, spec: TicketSpec, *, mode: Mode, arrival_us: int = 0, avoid: str = ""
    ) -> Grant:
        await self._started.wait()
        began_s = time.monotonic()
        spec = self._usual.estimate(queue, spec)
        patience_s = self._patience_s(spec)
        shard = self._shard_of(queue)
        tickets, resumes = shard.queue(queue), mode == "front"
        if not (resumes or self._reachable.is_set()):
            raise Unavailable("The queue is away. Try again shortly.", retry_after_s=RETRY_AFTER_S)
        if (error := tickets.refusal(resumes=resumes)) is not None:
            raise error
        waiting = WaitingTicket(queue, uuid.uuid4().hex, spec, began_s + patience_s, resumes)
        tickets.waiting[waiting.ticket_id] = waiting
        try:
            async with asyncio.timeout(patience_s):
                await self._enqueue(shard, waiting, mode, arrival_us, avoid)
                self.on_ticket(queue, spec.request_id)
                record = await waiting.granted
        except BaseException as error:
            if waiting.admitted or waiting.in_doubt:  # a grant that came in the same moment goes back
                shard.discard(queue, waiting.ticket_id)
            if isinstance(error, TimeoutError):
                raise TimedOut("No slot was free before the deadline.") from None
            raise
        finally:
            del tickets.waiting[waiting.ticket_id]
        return Grant(
            queue=queue,
            spec=spec,
            ticket_id=waiting.ticket_id,
            lease_id=record.lease_id,
            worker_id=record.worker_id,
            address=record.address,
            grant_timeout_s=record.grant_timeout_ms / 1000,
            arrival_us=waiting.arrival_us,
            waited_s=time.monotonic() - began_s,
        )

    def _patience_s(self, spec: TicketSpec) -> float:
        if not spec.deadline_unix_ms:
            return self._limits.max_wait_s
        left_s = spec.deadline_unix_ms / 1000 - time.time()
        if left_s <= 0:
            raise TimedOut("The deadline had passed before a slot was asked for.")
        return min(left_s, self._limits.max_wait_s)

    def _shard_of(self, queue: QueueName) -> GatewayShard:
        if self._tasks is None:
            raise self._stopping()
        number = self._script.keys.shard_of(queue)
        shard = self._shards.get(number)
        if shard is None:
            shard = GatewayShard(self._redis, self._script, number, self._gateway_id, self._limits)
            self._shards[number] = shard
            self._tasks.create_task(shard.run(), name=f"queue-shard {number}")
        return shard

    async def _enqueue(
        self, shard: GatewayShard, waiting: WaitingTicket, mode: Mode, arrival_us: int, avoid: str
    ) -> None:
        while True:
            if waiting.resumes:
                await self._reachable.wait()
            if self._tasks is None:
                raise self._stopping()
            try:
                return await shard.enqueue(waiting, mode, arrival_us, avoid)
            except Unavailable:
                self._reachable.clear()  # later ones need not wait to find out
                if not waiting.resumes:
                    raise

    async def _beat(self) -> None:
        while True:
            try:
                # One that is away takes no heartbeat from the others, which may be on other nodes.
                await finish_all([self._known.reach(), *(shard.beat() for shard in self._shards.values())])
                self._reachable.set()
            except Unavailable:
                self._reachable.clear()
            await asyncio.sleep(self._limits.heartbeat_s if self._reachable.is_set() else RETRY_S)

    def _stopping(self) -> Unavailable:
        return Unavailable("The gateway is stopping.", retry_after_s=RETRY_AFTER_S)

    async def _close(self) -> None:
        self._reachable.set()  # nobody else would wake those that wait for it
        try:
            await finish_all(shard.close(self._stopping()) for shard in self._shards.values())
        except Unavailable:
            _log.warning("Redis is away: this gateway's tickets end with its heartbeat")
