"""One shard of the queues as one gateway sees it: its tickets there, and their grants."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from antiphon.v1 import queue_pb2
from services.common.errors import Unavailable
from services.common.queues.batches import Batches
from services.common.queues.script import (
    MOST_LOOKS,
    MOST_TICKETS,
    Discard,
    Mode,
    NewTicket,
    QueueScript,
    Settlement,
    Verdict,
)
from services.common.queues.ticket_queue import TicketQueue, WaitingTicket, capacity_error
from services.common.queues.tickets import PriorityClass, QueueLimits, QueueName
from services.common.redis_client import RedisClient, redis_call
from services.common.redis_held import hold
from services.common.shared_places import MOST_SHARE
from services.common.stages import PREPROCESS

_log = logging.getLogger(__name__)

RETRY_S = 0.5
"""Pause of background work while Redis is away."""

_BLOCK_S = 1.0
_MOST_GRANTS = 64
# Received grants are remembered for longer than Redis keeps them, so that a repeated one is recognised.
_REMEMBER_S = 60.0
# A grant is on its way to its gateway for less than this.
_ON_THE_WAY_S = 0.1
# More than wait in one gateway: all its clients may leave at once.
_MOST_DISCARDS = 100_000
# So that other work of the process goes on meanwhile.
_PUT_BACK_AT_ONCE = 256
# A slow URL holds its slot for as long as it takes, and costs the tenant nothing. So while others are there, a tenant
# leaves them some of the slots, unless the operator limits its slots otherwise.
_SHARE_BESIDE = {PREPROCESS: MOST_SHARE}
# Between two calls that drop tickets of dead gateways: other calls go first.
_REAP_PAUSE_S = 0.01
# Settlements, for which nobody waits, are gathered for so long: one call then tells of many turns.
_GATHER_S = 0.05


_Item = TypeVar("_Item")


class GatewayShard:
    """Sends the tickets of one gateway to the queues of one shard, and receives their grants. `run` must run."""

    def __init__(
        self, redis: RedisClient, script: QueueScript, shard: int, gateway_id: str, limits: QueueLimits
    ) -> None:
        self.queues: dict[QueueName, TicketQueue] = {}
        self._redis = hold(redis)
        self._script = script
        self._shard = shard
        self._gateway_id = gateway_id
        self._limits = limits
        self._new: Batches[NewTicket, Verdict] = Batches(self._send_new, MOST_TICKETS)
        self._settlements: Batches[Settlement, None] = Batches(self._send_settlements, MOST_TICKETS, gather_s=_GATHER_S)
        # Where Redis has been away for long the oldest fall out; those tickets end at their deadlines.
        self._discards: deque[Discard] = deque(maxlen=_MOST_DISCARDS)
        self._has_discards = asyncio.Event()
        self._has_dead = asyncio.Event()
        # Id of each granted ticket → when it may be forgotten, monotonic seconds.
        self._delivered: dict[str, float] = {}
        # How many of the tickets were looked at since the first of them was.
        self._looked = 0

    def queue(self, name: QueueName) -> TicketQueue:
        if name not in self.queues:
            self.queues[name] = TicketQueue(name, self._limits)
        return self.queues[name]

    async def run(self) -> None:
        """Run until cancelled, also while Redis is away."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._new.run(), name=f"queue-enqueue {self._shard}")
            tasks.create_task(self._settlements.run(), name=f"queue-settle {self._shard}")
            tasks.create_task(self._hear_grants(), name=f"queue-grants {self._shard}")
            tasks.create_task(self._remove_discarded(), name=f"queue-discard {self._shard}")
            tasks.create_task(self._drop_of_the_dead(), name=f"queue-reap {self._shard}")

    async def enqueue(self, ticket: WaitingTicket, mode: Mode, arrival_us: int = 0, avoid: str = "") -> None:
        """Put a ticket into its queue. Raise Capacity where the limits refuse it, or Unavailable where it may have
        entered or not.

        Cancelling the call removes the ticket.
        """
        spec, terms = ticket.spec, self._limits.terms_of(ticket.spec.tenant)
        priority, affinity = self._limits.priority_of(spec), ""
        if spec.affinity:  # clients choose it, of any length; and tenants must not meet
            affinity = hashlib.blake2b(f"{spec.tenant}\0{spec.affinity}".encode(), digest_size=16).hexdigest()
        answer = self._new.submit(
            NewTicket(
                queue=ticket.queue,
                ticket_id=ticket.ticket_id,
                request_id=spec.request_id,
                tenant=spec.tenant,
                priority=priority,
                charge=self._limits.charge(spec.tenant, spec.cost),
                remaining_ms=max(1.0, (ticket.deadline_s - time.monotonic()) * 1000),
                affinity=affinity,
                mode=mode,
                arrival_us=arrival_us,
                avoid=avoid,
                max_slots=terms.max_slots,
                max_share=terms.max_share,
                share_beside=1.0 if terms.limits_slots else _SHARE_BESIDE.get(ticket.queue.stage, 1.0),
                group=terms.group.name if terms.group else "",
                group_max_slots=terms.group.max_slots if terms.group else 0,
                group_max_share=terms.group.max_share if terms.group else 1.0,
                continues=ticket.resumes or (spec.continues and priority <= PriorityClass.BATCH),
            )
        )
        try:
            verdict = await asyncio.shield(answer)
        except asyncio.CancelledError:
            self._new.withdraw(answer, partial(self.discard, ticket.queue, ticket.ticket_id))
            raise
        except Unavailable:
            ticket.in_doubt = True
            raise
        if verdict.refusal:
            raise capacity_error(verdict.refusal, verdict.retry_after_ms / 1000)
        ticket.arrival_us, ticket.admitted = verdict.arrival_us, True
        self.queue(ticket.queue).note_workers(verdict.workers)

    async def settle(self, queue: QueueName, tenant: str, priority: int, by: float) -> None:
        """Move a tenant's clock. Raise Unavailable."""
        await asyncio.shield(self._settlements.submit(Settlement(queue, tenant, priority, by)))

    def discard(self, queue: QueueName, ticket_id: str, *, spent: bool = False) -> None:
        """Remove a ticket, or free the slot that it was granted, some milliseconds from now. `spent`: see Discard."""
        self._discards.append(Discard(queue, ticket_id, spent))
        self._has_discards.set()

    async def beat(self) -> None:
        """Keep this gateway's tickets alive, fetch grants that were lost on the way, put back tickets that Redis lost.

        Raise Unavailable.
        """
        now_s = time.monotonic()
        while self._delivered and next(iter(self._delivered.values())) < now_s:
            del self._delivered[next(iter(self._delivered))]
        for name in [name for name, queue in self.queues.items() if queue.is_idle]:
            del self.queues[name]
        asked = self._unanswered(ticket for queue in self.queues.values() for ticket in queue.waiting.values())
        waiting = 0
        for names in _chunks(list(self.queues), MOST_LOOKS):
            beat = await self._script.beat(self._shard, self._gateway_id, self._limits.gateway_ttl_s, names)
            waiting = beat.waiting
            if beat.dead:
                self._has_dead.set()
            for name, (workers, last) in zip(names, beat.workers, strict=True):
                if (queue := self.queues.get(name)) is not None:
                    queue.note_workers(workers, last)
        await self._look_after(asked, waiting)
        for queue in self.queues.values():
            queue.fail_what_waits_in_vain()

    async def close(self, error: Unavailable) -> None:
        """Fail all waiters and leave. Raise Unavailable where Redis still holds the tickets."""
        for queue in self.queues.values():
            queue.fail_all(error)
            for ticket_id in queue.waiting:
                self.discard(queue.name, ticket_id)
        await self._discard_now()
        await self._script.close_gateway(self._shard, self._gateway_id)

    async def _send_new(self, tickets: Sequence[NewTicket]) -> list[Verdict]:
        return await self._script.enqueue(self._shard, self._gateway_id, self._limits, tickets)

    async def _send_settlements(self, turns: Sequence[Settlement]) -> list[None]:
        await self._script.settle(self._shard, turns)
        return [None] * len(turns)

    def _unanswered(self, tickets: Iterable[WaitingTicket]) -> list[WaitingTicket]:
        """Return the admitted ones that still wait, in the order of arrival."""
        found = [ticket for ticket in tickets if ticket.admitted and not ticket.granted.done()]
        return sorted(found, key=lambda ticket: ticket.arrival_us)

    async def _look_after(self, asked: list[WaitingTicket], waiting: int) -> None:
        """Look what became of tickets: of all where Redis knows fewer than this gateway, else of a few in turn."""
        if waiting < len(asked):
            await asyncio.sleep(_ON_THE_WAY_S)
            asked = self._unanswered(asked)
        if waiting >= len(asked):
            begin = self._looked if self._looked < len(asked) else 0
            asked = asked[begin : begin + MOST_LOOKS]
            self._looked = begin + len(asked)
        lost: list[WaitingTicket] = []
        for some in _chunks(asked, MOST_LOOKS):
            states = await self._script.look(self._shard, [(ticket.queue, ticket.ticket_id) for ticket in some])
            for ticket, state in zip(some, states, strict=True):
                if state == b"lost":
                    lost.append(ticket)
                elif state != b"waiting":
                    self._deliver(state)
        for some in _chunks(self._unanswered(lost), _PUT_BACK_AT_ONCE):
            await finish_all(map(self._put_back, some))

    async def _put_back(self, ticket: WaitingTicket) -> None:
        await self.enqueue(ticket, "again", ticket.arrival_us)
        if ticket.ticket_id not in self.queue(ticket.queue).waiting:  # its waiter left meanwhile
            self.discard(ticket.queue, ticket.ticket_id)

    async def _hear_grants(self) -> None:
        grants = self._script.keys.shard_key(self._shard, "grants", self._gateway_id)
        while True:
            try:
                async with redis_call(_BLOCK_S):
                    found: Any = await self._redis.execute_command(
                        "BLMPOP", _BLOCK_S, 1, grants, "LEFT", "COUNT", _MOST_GRANTS
                    )
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            else:
                for record in found[1] if found else ():
                    self._deliver(record)

    def _deliver(self, encoded: bytes) -> None:
        record = queue_pb2.GrantRecord.FromString(encoded)
        ticket_id = record.ticket.ticket_id
        if ticket_id in self._delivered:
            return  # the heartbeat brought it before
        self._delivered[ticket_id] = time.monotonic() + _REMEMBER_S
        queue = QueueName.parse(record.ticket.queue)
        ticket = self.queue(queue).waiting.get(ticket_id)
        if ticket is None or ticket.granted.done():
            self.discard(queue, ticket_id)
        else:
            ticket.granted.set_result(record)

    async def _remove_discarded(self) -> None:
        while True:
            await self._has_discards.wait()
            try:
                await self._discard_now()
            except Unavailable:
                await asyncio.sleep(RETRY_S)

    async def _discard_now(self) -> None:
        while self._discards:
            some = [self._discards.popleft() for _ in range(min(len(self._discards), MOST_TICKETS))]
            try:
                await self._script.discard(self._shard, some)
            except BaseException:
                self._discards.extendleft(reversed(some))
                raise
        self._has_discards.clear()

    async def _drop_of_the_dead(self) -> None:
        """Help to drop tickets of gateways that died, a few with each call."""
        while True:
            await self._has_dead.wait()
            self._has_dead.clear()
            with suppress(Unavailable):
                if await self._script.reap(self._shard):
                    self._has_dead.set()
            await asyncio.sleep(_REAP_PAUSE_S)


async def finish_all(calls: Iterable[Awaitable[None]]) -> None:
    """Await all calls, also those beside one that fails. Raise the first failure."""
    for done in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(done, BaseException):
            raise done


def _chunks(items: Sequence[_Item], most: int) -> Iterator[Sequence[_Item]]:
    return (items[begin : begin + most] for begin in range(0, len(items), most))
