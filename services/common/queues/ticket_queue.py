"""One queue as one gateway sees it: its waiting tickets, and whether a worker may come for them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from antiphon.v1 import queue_pb2
from services.common.errors import AntiphonError, Capacity, Unavailable, no_worker
from services.common.queues.tickets import QueueLimits, QueueName, TicketSpec

_LONGEST_RETRY_AFTER_S = 60.0


@dataclass(slots=True, eq=False)
class WaitingTicket:
    """A ticket of this gateway, from before it is sent until its waiter has the grant or gives up."""

    queue: QueueName
    ticket_id: str
    spec: TicketSpec
    # Monotonic seconds.
    deadline_s: float
    # Its turn had a slot of this queue before.
    resumes: bool
    began_s: float = field(default_factory=time.monotonic)
    # It entered the queue: Redis must know the ticket or its grant.
    admitted: bool = False
    # An answer was lost, so it may have entered.
    in_doubt: bool = False
    # Microseconds since the epoch, by Redis' clock; 0 until it is admitted.
    arrival_us: int = 0
    granted: asyncio.Future[queue_pb2.GrantRecord] = field(default_factory=asyncio.Future[queue_pb2.GrantRecord])

    def fail(self, error: AntiphonError) -> None:
        if not self.granted.done():
            self.granted.set_exception(error)


class TicketQueue:
    """The tickets of one gateway in one queue."""

    def __init__(self, name: QueueName, limits: QueueLimits) -> None:
        self.name = name
        self.waiting: dict[str, WaitingTicket] = {}
        self._limits = limits
        self._without_worker_since_s: float | None = None
        # How long the last worker's start took, seconds; 0 = not known.
        self._start_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Nothing waits and there is a worker: nothing is to be remembered."""
        return not self.waiting and self._without_worker_since_s is None

    def note_workers(self, workers: int, last: bytes = b"") -> None:
        """Note how many workers live and, where there is none, the WorkerInfo of the last one."""
        if last:
            self._start_s = queue_pb2.WorkerInfo.FromString(last).start_s
        if workers:
            self._without_worker_since_s = None
        elif self._without_worker_since_s is None:
            self._without_worker_since_s = time.monotonic()

    def refusal(self, *, resumes: bool) -> Unavailable | None:
        """Return an error where there has been no worker for too long, else None."""
        if self._limits.cold_start_s:  # its ticket starts the first worker
            return None
        since_s = self._without_worker_since_s
        patience_s = self._limits.patience_s(self._start_s, resumes=resumes)
        if since_s is None or time.monotonic() - since_s < patience_s:
            return None
        return self._no_worker(patience_s)

    def fail_what_waits_in_vain(self) -> None:
        """Fail the tickets that wait for a worker for too long."""
        for resumes in (False, True):
            if (error := self.refusal(resumes=resumes)) is not None:
                self._fail([waiting for waiting in self.waiting.values() if waiting.resumes == resumes], error)
        self._fail_late_starts()

    def _fail_late_starts(self) -> None:
        """Fail the tickets that waited for a first worker in vain."""
        since_s, patience_s = self._without_worker_since_s, self._limits.cold_start_s
        if not patience_s or since_s is None:
            return
        for waiting in self.waiting.values():
            if time.monotonic() - max(since_s, waiting.began_s) >= patience_s:
                waiting.fail(self._no_worker(patience_s))

    def _no_worker(self, patience_s: float) -> Unavailable:
        return no_worker(self.name.stage, retry_after_s=min(patience_s, _LONGEST_RETRY_AFTER_S))

    def fail_all(self, error: AntiphonError) -> None:
        self._fail(self.waiting.values(), error)

    def _fail(self, tickets: Iterable[WaitingTicket], error: AntiphonError) -> None:
        for waiting in tickets:
            waiting.fail(error)


def capacity_error(refusal: str, retry_after_s: float) -> Capacity:
    """Return the error for a ticket that met one of the limits; see enqueue in lua/gateways.lua."""
    if refusal == "late":
        message, code = "All slots are taken and none would be free before the deadline.", "queue_wait_too_long"
    elif refusal == "tenant_full":
        message, code = "Too many of your requests are waiting.", "tenant_queue_full"
    else:
        message, code = "Too many requests are waiting.", "queue_full"
    return Capacity(message, code=code, retry_after_s=min(max(1.0, retry_after_s), _LONGEST_RETRY_AFTER_S))
