"""One queue as one gateway sees it: its waiting tickets, and their grants."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from antiphon.v1 import queue_pb2
from services.common.errors import AntiphonError, Capacity, Unavailable, no_worker
from services.common.queues.keys import queue_prefix, reply_key
from services.common.queues.script import QueueScript
from services.common.queues.tickets import QueueLimits, QueueName, TicketSpec
from services.common.redis_client import RedisClient, redis_call

RETRY_S = 0.5
"""Pause of background work while Redis is away."""

_BLOCK_S = 1.0
# Received grants are remembered for longer than Redis keeps them, so that a repeated one is recognised.
_REMEMBER_S = 60.0
_LONGEST_RETRY_AFTER_S = 60.0
# Tickets wait so many starts of a worker for a new one.
_STARTS = 10

Mode = Literal["new", "again", "front"]
"""How a ticket enters; see enqueue in queue.lua."""


@dataclass(slots=True, eq=False)
class WaitingTicket:
    """A ticket of this gateway, from before it is sent until its waiter has the grant or gives up."""

    ticket_id: str
    spec: TicketSpec
    # Monotonic seconds.
    deadline_s: float
    began_s: float = field(default_factory=time.monotonic)
    # It entered the queue: Redis must know the ticket or its grant.
    admitted: bool = False
    # Microseconds since the epoch, by Redis' clock; 0 until it is admitted.
    arrival_us: int = 0
    granted: asyncio.Future[queue_pb2.GrantRecord] = field(default_factory=asyncio.Future[queue_pb2.GrantRecord])

    def fail(self, error: AntiphonError) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)


class TicketQueue:
    """The tickets of one gateway in one queue.

    `discard` is called with each ticket that is granted after its waiter left.
    """

    def __init__(
        self,
        redis: RedisClient,
        script: QueueScript,
        queue: QueueName,
        gateway_id: str,
        limits: QueueLimits,
        discard: Callable[[QueueName, str], None],
    ) -> None:
        self.queue = queue
        self.waiting: dict[str, WaitingTicket] = {}
        self._redis = redis
        self._script = script
        self._gateway_id = gateway_id
        self._limits = limits
        self._discard = discard
        # Id of each granted ticket → when it may be forgotten, monotonic seconds.
        self._delivered: dict[str, float] = {}
        self._without_worker_since_s: float | None = None
        # How long the last worker's start took, seconds; 0 = not known.
        self._start_s = 0.0

    async def enqueue(self, waiting: WaitingTicket, mode: Mode, arrival_us: int | None = None, avoid: str = "") -> None:
        """Put a ticket into the queue. Raise Capacity where the limits refuse it, or Unavailable."""
        spec, limits = waiting.spec, self._limits
        affinity = ""
        if spec.affinity:  # clients choose it, of any length; and tenants must not meet
            affinity = hashlib.blake2b(f"{spec.tenant}\0{spec.affinity}".encode(), digest_size=16).hexdigest()
        ticket = queue_pb2.Ticket(ticket_id=waiting.ticket_id, request_id=spec.request_id)
        verdict, number, *rest = await self._script(
            self.queue,
            "enqueue",
            waiting.ticket_id,
            queue_pb2.GrantRecord(ticket=ticket).SerializeToString(),
            self._gateway_id,
            round(limits.gateway_ttl_s * 1000),
            spec.tenant,
            int(spec.priority),
            limits.charge(spec.tenant, spec.cost),
            max(1.0, (waiting.deadline_s - time.monotonic()) * 1000),
            affinity,
            round(limits.affinity_wait_s * 1000),
            limits.max_waiting,
            limits.max_waiting_per_tenant,
            mode,
            arrival_us or "",
            avoid,
        )
        if verdict != b"ok":
            raise _refusal(verdict, min(max(1.0, number / 1000), _LONGEST_RETRY_AFTER_S))
        waiting.arrival_us, waiting.admitted = number, True
        self._note_workers(rest[0])

    async def hear_grants(self) -> None:
        """Deliver grants until cancelled, also after Redis was away."""
        reply = reply_key(queue_prefix(self.queue.stage, self.queue.model), self._gateway_id)
        while True:
            try:
                async with redis_call(_BLOCK_S):
                    item: Any = await self._redis.blpop([reply], timeout=_BLOCK_S)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                if item is not None:
                    self._deliver(item[1])

    async def beat(self) -> None:
        """Keep this gateway's tickets alive, fetch grants that were lost on the way, put back tickets that Redis lost.

        Raise Unavailable.
        """
        now_s = time.monotonic()
        while self._delivered and next(iter(self._delivered.values())) < now_s:
            del self._delivered[next(iter(self._delivered))]
        asked = [waiting for waiting in self.waiting.values() if waiting.admitted and not waiting.granted.done()]
        asked.sort(key=lambda waiting: waiting.arrival_us)
        workers, last, *states = await self._script(
            self.queue,
            "beat",
            self._gateway_id,
            round(self._limits.gateway_ttl_s * 1000),
            *(waiting.ticket_id for waiting in asked),
        )
        self._note_workers(workers)
        if last:
            self._start_s = queue_pb2.WorkerInfo.FromString(last).start_s
        for waiting, state in zip(asked, states, strict=True):
            if state == b"waiting" or waiting.granted.done():
                continue
            if state == b"lost":
                await self.enqueue(waiting, "again", waiting.arrival_us)
                if waiting.ticket_id not in self.waiting:  # its waiter left meanwhile
                    self._discard(self.queue, waiting.ticket_id)
            else:
                self._deliver(state)
        if (error := self.refusal()) is not None:
            self.fail_all(error)
        self._fail_late_starts()

    def refusal(self) -> Unavailable | None:
        """Return an error where there has been no worker for too long, else None."""
        if self._limits.cold_start_s:  # its ticket starts the first worker
            return None
        since_s = self._without_worker_since_s
        # The one that died is started again, and that may take as long as it took last time, on a busier machine.
        patience_s = max(self._limits.max_wait_for_worker_s, _STARTS * self._start_s)
        if since_s is None or time.monotonic() - since_s < patience_s:
            return None
        return self._no_worker(patience_s)

    def _fail_late_starts(self) -> None:
        """Fail the tickets that waited for a first worker in vain."""
        since_s, patience_s = self._without_worker_since_s, self._limits.cold_start_s
        if not patience_s or since_s is None:
            return
        for waiting in self.waiting.values():
            if time.monotonic() - max(since_s, waiting.began_s) >= patience_s:
                waiting.fail(self._no_worker(patience_s))

    def _no_worker(self, patience_s: float) -> Unavailable:
        return no_worker(self.queue.stage, retry_after_s=min(patience_s, _LONGEST_RETRY_AFTER_S))

    def fail_all(self, error: AntiphonError) -> None:
        for waiting in self.waiting.values():
            waiting.fail(error)

    def _deliver(self, encoded: bytes) -> None:
        record = queue_pb2.GrantRecord.FromString(encoded)
        ticket_id = record.ticket.ticket_id
        if ticket_id in self._delivered:
            return  # the heartbeat brought it before
        self._delivered[ticket_id] = time.monotonic() + _REMEMBER_S
        waiting = self.waiting.get(ticket_id)
        if waiting is None or waiting.granted.done():
            self._discard(self.queue, ticket_id)
        else:
            waiting.granted.set_result(record)

    def _note_workers(self, workers: int) -> None:
        if workers:
            self._without_worker_since_s = None
        elif self._without_worker_since_s is None:
            self._without_worker_since_s = time.monotonic()


def _refusal(verdict: bytes, retry_after_s: float) -> Capacity:
    if verdict == b"late":
        message, code = "All slots are taken and none would be free before the deadline.", "queue_wait_too_long"
    elif verdict == b"tenant_full":
        message, code = "Too many of your requests are waiting.", "tenant_queue_full"
    else:
        message, code = "Too many requests are waiting.", "queue_full"
    return Capacity(message, code=code, retry_after_s=retry_after_s)
