"""The gateway's side: asks for slots and waits for them."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import suppress

from antiphon.v1 import queue_pb2
from services.common.errors import Capacity, TimedOut, Unavailable
from services.common.queues.known import KnownQueues
from services.common.queues.lane import RETRY_S, Lane, Mode, Waiting
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from services.common.queues.tickets import Grant, QueueLimits, QueueName, QueueStats, ServedModel, TicketSpec
from services.common.redis_client import RETRY_AFTER_S, RedisClient

_log = logging.getLogger(__name__)

_MOST_DISCARDS = 10_000


class QueueClient:
    """Slots of all queues for one gateway process.

    `run()` is the background and must run: it hears grants, beats the heart that keeps this gateway's tickets alive,
    puts back tickets that Redis lost, and removes those that nobody waits for. `gateway_id` must be new with each start
    of the process. Each queue that is asked for takes one connection; ask only for models that are served.
    """

    def __init__(self, redis: RedisClient, gateway_id: str, limits: QueueLimits | None = None) -> None:
        self._redis = redis
        self._gateway_id = gateway_id
        self._limits = limits or QueueLimits()
        self._script = QueueScript(redis)
        self._known = KnownQueues(redis)
        self._live = LiveWorkers(redis, self._script)
        self._lanes: dict[QueueName, Lane] = {}
        self._discards: dict[str, QueueName] = {}
        self._has_discards = asyncio.Event()
        self._started = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._away = False

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Waits for a slot. Cancelling the wait removes the ticket, and gives back a grant that came too late.

        Open the lease at once, then `settle` what the turn cost; or `give_back`.

        Raises Capacity (queue or tenant at its limit, or the wait would pass the deadline), TimedOut (the deadline
        passed), Unavailable (Redis is away, or no worker serves this queue).
        """
        return await self._wait_for_grant(queue, spec, mode="new")

    async def reacquire(self, grant: Grant) -> Grant:
        """Waits again, first in its class, for one whose worker died or refused it. The old grant is as it was: give it
        back where its lease was never opened.

        Raises as `acquire`.
        """
        return await self._wait_for_grant(
            grant.queue, grant.spec, mode="front", arrival_us=grant.arrival_us, avoid=grant.worker_id
        )

    def give_back(self, grant: Grant) -> None:
        """Frees a slot that will not be used, and refunds it; returns at once, the slot is free some milliseconds
        later. A lease that was opened ends with its call and not by this."""
        self._discard(grant.queue, grant.ticket_id)

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charges the tenant what the turn really cost, in place of what its ticket said. Lost where Redis is away."""
        by = self._limits.charge(grant.spec.tenant, cost - grant.spec.cost)
        if by == 0:
            return
        try:
            await self._script(grant.queue, "settle", grant.spec.tenant, int(grant.spec.priority), by)
        except Unavailable:
            _log.warning("Redis is away; the cost of a turn was not settled")

    async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]:
        """The queue's live workers, draining ones too. Raises Unavailable."""
        return await self._live.workers(queue)

    async def models(self) -> dict[str, ServedModel]:
        """What live workers serve, by model name; with `cold_start_s`, also what they would serve were they started.

        Raises Unavailable.
        """
        return await self._live.models(asleep=self._limits.cold_start_s > 0)

    async def wake(self, queue: QueueName) -> None:
        """Tells autoscaling that a slot of this queue will be asked for, before it is. Lost where Redis is away."""
        if self._limits.cold_start_s > 0:
            with suppress(Unavailable):
                await self._script(queue, "wake", round(self._limits.cold_start_s * 1000))

    async def stats(self, queue: QueueName) -> QueueStats:
        """Raises Unavailable."""
        return await self._live.stats(queue)

    async def run(self) -> None:
        """Runs until cancelled; then who still waits gets Unavailable, and Redis forgets this gateway."""
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
        lane = self._lane(queue)
        if self._away:
            raise Unavailable("The queue is away. Try again shortly.", retry_after_s=RETRY_AFTER_S)
        if (error := lane.refusal()) is not None:
            raise error
        waiting = Waiting(uuid.uuid4().hex, spec, began_s + patience_s)
        lane.waiting[waiting.ticket_id] = waiting
        try:
            async with asyncio.timeout(patience_s):
                await self._enqueue(lane, waiting, mode, arrival_us, avoid)
                record = await waiting.granted
        except Capacity:
            raise  # it never entered
        except BaseException as error:  # the grant may have come in the same moment: then it goes back
            self._discard(queue, waiting.ticket_id)
            if isinstance(error, TimeoutError):
                raise TimedOut("No slot was free before the deadline.") from None
            raise
        finally:
            del lane.waiting[waiting.ticket_id]
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

    def _lane(self, queue: QueueName) -> Lane:
        if self._tasks is None:
            raise self._stopping()
        lane = self._lanes.get(queue)
        if lane is None:
            lane = Lane(self._redis, self._script, queue, self._gateway_id, self._limits, self._discard)
            self._lanes[queue] = lane
            self._tasks.create_task(lane.hear_grants(), name=f"queue-grants {queue}")
        return lane

    async def _enqueue(self, lane: Lane, waiting: Waiting, mode: Mode, arrival_us: int | None, avoid: str) -> None:
        try:
            await lane.enqueue(waiting, mode, arrival_us, avoid)
        except Unavailable:
            self._away = True  # the next ones need not find out by waiting
            raise

    async def _beat(self) -> None:
        while True:
            try:
                await self._known.reach()
                for lane in list(self._lanes.values()):
                    await lane.beat()
                self._away = False
            except Unavailable:
                self._away = True
            await asyncio.sleep(RETRY_S if self._away else self._limits.heartbeat_s)

    def _discard(self, queue: QueueName, ticket_id: str) -> None:
        if len(self._discards) >= _MOST_DISCARDS:  # Redis is long away; what waits there ends at its deadline
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
        for lane in self._lanes.values():
            lane.fail_all(self._stopping())
            for ticket_id in lane.waiting:
                self._discard(lane.queue, ticket_id)
        try:
            await self._discard_now()
            for lane in self._lanes.values():
                await self._script(lane.queue, "close_gateway", self._gateway_id)
        except Unavailable:
            _log.warning("Redis is away; what waits there ends with the gateway's heartbeat")
