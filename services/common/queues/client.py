"""The gateway's side of the queues: it asks for slots and waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress

from antiphon.v1 import queue_pb2
from services.common.errors import Capacity, TimedOut, Unavailable
from services.common.queues.known import KnownQueues
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from services.common.queues.ticket_queue import RETRY_S, Mode, TicketQueue, WaitingTicket
from services.common.queues.tickets import Grant, QueueLimits, QueueName, QueueStats, ServedModel, TicketSpec
from services.common.redis_client import RETRY_AFTER_S, RedisClient

_log = logging.getLogger(__name__)

_MOST_DISCARDS = 10_000


class QueueClient:
    """Slots of all queues for one gateway process.

    `run()` must run in the background: it receives grants, sends the heartbeat that keeps this gateway's tickets alive,
    puts back tickets that Redis lost, and removes those that nobody waits for. `gateway_id` must be new with each start
    of the process. Each queue takes one connection, so ask only for models that are served.
    """

    def __init__(self, redis: RedisClient, gateway_id: str, limits: QueueLimits | None = None) -> None:
        self._redis = redis
        self._gateway_id = gateway_id
        self._limits = limits or QueueLimits()
        self._script = QueueScript(redis)
        self._known = KnownQueues(redis)
        self._live = LiveWorkers(redis, self._script)
        self._queues: dict[QueueName, TicketQueue] = {}
        self._discards: dict[str, QueueName] = {}
        self._has_discards = asyncio.Event()
        self._started = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._away = False

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

        Raise what `acquire` raises.
        """
        return await self._wait_for_grant(
            grant.queue, grant.spec, mode="front", arrival_us=grant.arrival_us, avoid=grant.worker_id
        )

    def give_back(self, grant: Grant) -> None:
        """Free a slot that will not be used, and refund its cost.

        Return at once; the slot is free some milliseconds later. An opened lease ends with its call, not by this.
        """
        self._discard(grant.queue, grant.ticket_id)

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charge the tenant what the turn cost in place of what its ticket said. Lost while Redis is away."""
        by = self._limits.charge(grant.spec.tenant, cost - grant.spec.cost)
        if by == 0:
            return
        try:
            await self._script(grant.queue, "settle", grant.spec.tenant, int(grant.spec.priority), by)
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
        if self._limits.cold_start_s > 0:
            with suppress(Unavailable):
                await self._script(queue, "wake", round(self._limits.cold_start_s * 1000))

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
                tasks.create_task(self._remove_discarded(), name="queue-discard")
        finally:
            self._tasks = None
            await self._close()

    async def _wait_for_grant(
        self, queue: QueueName, spec: TicketSpec, *, mode: Mode, arrival_us: int | None = None, avoid: str = ""
    ) -> Grant:
        await self._started.wait()
        began_s = time.monotonic()
        patience_s = self._patience_s(spec)
        tickets = self._tickets_of(queue)
        if self._away:
            raise Unavailable("The queue is away. Try again shortly.", retry_after_s=RETRY_AFTER_S)
        if (error := tickets.refusal()) is not None:
            raise error
        waiting = WaitingTicket(uuid.uuid4().hex, spec, began_s + patience_s)
        tickets.waiting[waiting.ticket_id] = waiting
        try:
            async with asyncio.timeout(patience_s):
                await self._enqueue(tickets, waiting, mode, arrival_us, avoid)
                record = await waiting.granted
        except Capacity:
            raise  # the ticket never entered the queue
        except BaseException as error:  # if the grant came in the same moment, it goes back
            self._discard(queue, waiting.ticket_id)
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

    def _tickets_of(self, queue: QueueName) -> TicketQueue:
        if self._tasks is None:
            raise self._stopping()
        tickets = self._queues.get(queue)
        if tickets is None:
            tickets = TicketQueue(self._redis, self._script, queue, self._gateway_id, self._limits, self._discard)
            self._queues[queue] = tickets
            self._tasks.create_task(tickets.hear_grants(), name=f"queue-grants {queue}")
        return tickets

    async def _enqueue(
        self, tickets: TicketQueue, waiting: WaitingTicket, mode: Mode, arrival_us: int | None, avoid: str
    ) -> None:
        try:
            await tickets.enqueue(waiting, mode, arrival_us, avoid)
        except Unavailable:
            self._away = True  # later ones need not wait to find out
            raise

    async def _beat(self) -> None:
        while True:
            try:
                await self._known.reach()
                for tickets in list(self._queues.values()):
                    await tickets.beat()
                self._away = False
            except Unavailable:
                self._away = True
            await asyncio.sleep(RETRY_S if self._away else self._limits.heartbeat_s)

    def _discard(self, queue: QueueName, ticket_id: str) -> None:
        if (
            len(self._discards) >= _MOST_DISCARDS
        ):  # Redis has been away for long; the dropped tickets end at their deadlines
            del self._discards[next(iter(self._discards))]
        self._discards[ticket_id] = queue
        self._has_discards.set()

    async def _remove_discarded(self) -> None:
        while True:
            await self._has_discards.wait()
            try:
                await self._discard_now()
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _discard_now(self) -> None:
        while self._discards:
            ticket_id, queue = next(iter(self._discards.items()))
            await self._script(queue, "discard", ticket_id)
            self._discards.pop(ticket_id, None)
        self._has_discards.clear()

    def _stopping(self) -> Unavailable:
        return Unavailable("The gateway is stopping.", retry_after_s=RETRY_AFTER_S)

    async def _close(self) -> None:
        for tickets in self._queues.values():
            tickets.fail_all(self._stopping())
            for ticket_id in tickets.waiting:
                self._discard(tickets.queue, ticket_id)
        try:
            await self._discard_now()
            for tickets in self._queues.values():
                await self._script(tickets.queue, "close_gateway", self._gateway_id)
        except Unavailable:
            _log.warning("Redis is away: this gateway's tickets end with its heartbeat")
