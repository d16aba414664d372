"""Runs the operations of lua/: each is one method here, with the types of its arguments and of its answer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from antiphon.v1 import queue_pb2
from services.common.queues.keys import Keyspace
from services.common.queues.library import LIBRARY
from services.common.queues.tickets import Lead, QueueLimits, QueueName, QueueStats
from services.common.redis_client import RedisClient, redis_call
from services.common.redis_held import hold

Mode = Literal["new", "again", "front"]
"""How a ticket enters; see enqueue in lua/gateways.lua."""

MOST_TICKETS = 8
"""Tickets that one call enqueues or discards, and queues that one describes: no call takes long."""

MOST_LOOKS = 64
"""Tickets and queues that one call only reads."""

Scalar = str | bytes | int | float
Row = Mapping[str, Scalar]


@dataclass(frozen=True, slots=True)
class NewTicket:
    """What one ticket brings into its queue. `arrival_us` 0 = now; `affinity` is a hash; `max_slots` 0 = no limit, also
    of the group; `share_beside`: the part of all slots that its tenant may hold while others are there, 1 = all;
    `continues`: its turn has or had a slot, so it waits at the front of its priority."""

    queue: QueueName
    ticket_id: str
    request_id: str
    tenant: str
    priority: int
    charge: float
    remaining_ms: float
    affinity: str = ""
    mode: Mode = "new"
    arrival_us: int = 0
    avoid: str = ""
    max_slots: int = 0
    max_share: float = 1.0
    share_beside: float = 1.0
    group: str = ""
    group_max_slots: int = 0
    group_max_share: float = 1.0
    continues: bool = False

    @property
    def row(self) -> Row:
        ticket = queue_pb2.Ticket(ticket_id=self.ticket_id, request_id=self.request_id, queue=str(self.queue))
        return {
            "queue": str(self.queue),
            "id": self.ticket_id,
            "body": queue_pb2.GrantRecord(ticket=ticket).SerializeToString(),
            "tenant": self.tenant,
            "priority": self.priority,
            "charge": self.charge,
            "remaining_ms": self.remaining_ms,
            "affinity": self.affinity,
            "mode": self.mode,
            "arrival": self.arrival_us,
            "avoid": self.avoid,
            "front": int(self.continues or self.mode == "front"),
            "max_slots": self.max_slots,
            "max_share": self.max_share,
            "share_beside": self.share_beside,
            "group": f"/{self.group}" if self.group else "",
            "group_max_slots": self.group_max_slots,
            "group_max_share": self.group_max_share,
        }


@dataclass(frozen=True, slots=True)
class Verdict:
    """`refusal` "" = the ticket waits since `arrival_us`, and the queue has so many live `workers`; else which limit it
    met ("full", "tenant_full", "late") and after how many ms to try again."""

    refusal: str
    arrival_us: int = 0
    workers: int = 0
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Discard:
    """A ticket that its gateway no longer wants. `spent`: where it was granted, its tenant stays charged for it."""

    queue: QueueName
    ticket_id: str
    spent: bool = False

    @property
    def row(self) -> Row:
        return {"queue": str(self.queue), "id": self.ticket_id, "spent": int(self.spent)}


@dataclass(frozen=True, slots=True)
class Settlement:
    """By how much a turn moves its tenant's clock, on top of what its ticket was charged for."""

    queue: QueueName
    tenant: str
    priority: int
    by: float

    @property
    def row(self) -> Row:
        return {"queue": str(self.queue), "tenant": self.tenant, "priority": self.priority, "by": self.by}


@dataclass(frozen=True, slots=True)
class Beat:
    """`waiting`: tickets of this gateway in the shard. `dead`: gateways whose tickets are still to be dropped.
    `workers`: for each queue the live workers and, where there is none, the last one's WorkerInfo (b"" = unknown)."""

    waiting: int
    dead: int
    workers: list[tuple[int, bytes]]


@dataclass(frozen=True, slots=True)
class Offer:
    """A free slot: the id of its next lease, and the worker's half of the GrantRecord."""

    lease_id: str
    record: bytes


@dataclass(frozen=True, slots=True)
class WorkerState:
    """What a worker shows with each heartbeat. `info` b"" = this is none: all but `free` is as it was shown before."""

    worker_id: str
    info: bytes
    card: bytes
    slots: int
    free: int
    draining: bool
    ttl_ms: int


@dataclass(frozen=True, slots=True)
class Taken:
    """`again_ms`: when to ask again, -1 = when the bell rings. `known`: the queue knew this worker. `grants`: lease,
    tenant, priority and group, "" = none with a limit."""

    again_ms: float
    known: bool
    grants: list[tuple[str, str, int, str]]


@dataclass(frozen=True, slots=True)
class QueueWorkers:
    """The workers of a queue in sum.

    `last`: the WorkerInfo shown last, b"" = unknown. `cards`: the different ModelCards.
    """

    live: int
    draining: int
    last: bytes
    cards: list[bytes]


class QueueScript:
    """The operations of a queue. Every method is one atomic script and raises Unavailable."""

    def __init__(self, redis: RedisClient) -> None:
        self.keys = Keyspace(redis)
        self._redis = hold(redis)

    async def enqueue(
        self, shard: int, gateway_id: str, limits: QueueLimits, tickets: Sequence[NewTicket]
    ) -> list[Verdict]:
        """Put up to MOST_TICKETS tickets into queues of one shard."""
        answers = await self._call(
            "enqueue",
            shard,
            gateway=gateway_id,
            gateway_ttl_ms=round(limits.gateway_ttl_s * 1000),
            max_waiting=limits.max_waiting,
            max_waiting_per_tenant=limits.max_waiting_per_tenant,
            affinity_wait_ms=round(limits.affinity_wait_s * 1000),
            batch_share=limits.batch_share_beside,
            batch_quiet_ms=round(limits.batch_quiet_s * 1000),
            batch_every_ms=round(limits.batch_every_s * 1000),
            tickets=[ticket.row for ticket in tickets],
        )
        return [
            Verdict("", arrival_us=number, workers=workers)
            if verdict == b"ok"
            else Verdict(verdict.decode(), retry_after_ms=number)
            for verdict, number, workers in answers
        ]

    async def discard(self, shard: int, tickets: Iterable[Discard]) -> None:
        """Remove up to MOST_TICKETS tickets, or free the slots that they were granted."""
        await self._call("discard", shard, tickets=[ticket.row for ticket in tickets])

    async def settle(self, shard: int, turns: Sequence[Settlement]) -> None:
        """Move the clocks of up to MOST_TICKETS turns' tenants in queues of one shard."""
        await self._call("settle", shard, turns=[turn.row for turn in turns])

    async def beat(self, shard: int, gateway_id: str, ttl_s: float, queues: Sequence[QueueName]) -> Beat:
        """Keep a gateway's tickets alive. At most MOST_LOOKS queues."""
        waiting, dead, *workers = await self._call(
            "beat", shard, gateway=gateway_id, gateway_ttl_ms=round(ttl_s * 1000), queues=_queue_rows(queues)
        )
        return Beat(waiting, dead, [(live, last) for live, last in workers])

    async def look(self, shard: int, tickets: Iterable[tuple[QueueName, str]]) -> list[bytes]:
        """Return for each of up to MOST_LOOKS tickets b"waiting", b"lost" or its GrantRecord."""
        return await self._call("look", shard, tickets=_ticket_rows(tickets))

    async def reap(self, shard: int) -> int:
        """Drop some tickets of dead gateways. Return how many of these gateways are left."""
        return await self._call("reap", shard)

    async def close_gateway(self, shard: int, gateway_id: str) -> None:
        await self._call("close_gateway", shard, gateway=gateway_id)

    async def take(
        self,
        queue: QueueName,
        worker: WorkerState,
        offers: Sequence[Offer],
        *,
        most: int,
        grant_ms: int,
        ask: int,
        known: bool,
        held: Mapping[str, int],
        all_held: bool,
        batch_held: int = 0,
        unheard: Sequence[str] = (),
        closed: int = 0,
        held_ms: float = 0.0,
    ) -> Taken:
        """`ask` counts this worker's calls: one that comes after a later one does nothing. `known`: the last answer
        said that the queue knows this worker; where it has forgotten it since, it grants nothing. `held`: how many
        slots each tenant or group holds, of all or of those that changed; `batch_held`: how many tickets at or below
        BATCH do; `unheard`: open leases of whose grants this worker has not heard."""
        again_ms, known, grants = await self._call_queue(
            "take",
            queue,
            worker=worker.worker_id,
            info=worker.info,
            card=worker.card,
            slots=worker.slots,
            free=worker.free,
            draining=int(worker.draining),
            worker_ttl_ms=worker.ttl_ms,
            most=most,
            grant_ms=grant_ms,
            ask=ask,
            known=int(known),
            closed=closed,
            held_ms=held_ms,
            held=[{"holder": holder, "slots": slots} for holder, slots in held.items()],
            all_held=int(all_held),
            batch_held=batch_held,
            unheard=[{"lease": lease} for lease in unheard],
            offers=[{"lease": offer.lease_id, "record": offer.record} for offer in offers],
        )
        return Taken(
            again_ms,
            bool(known),
            [(lease.decode(), tenant.decode(), priority, group.decode()) for lease, tenant, priority, group in grants],
        )

    async def close_worker(self, queue: QueueName, worker_id: str) -> None:
        await self._call_queue("close_worker", queue, worker=worker_id)

    async def held(self, queue: QueueName) -> dict[str, int]:
        """Return how many slots each tenant holds, and each group with a limit by its name after a slash."""
        names = iter(await self._call_queue("held", queue))
        return {tenant.decode(): int(slots) for tenant, slots in zip(names, names, strict=True)}

    async def workers(self, queue: QueueName) -> list[tuple[queue_pb2.WorkerInfo, int]]:
        """Return each live worker, and how many of the slots that it had free at its heartbeat still are."""
        found: dict[str, tuple[queue_pb2.WorkerInfo, int]] = {}
        while True:
            page = await self._call_queue("workers", queue, **{"from": len(found), "most": MOST_LOOKS})
            before = len(found)
            for info, free in page:
                worker = queue_pb2.WorkerInfo.FromString(info)
                found[worker.worker_id] = worker, free
            if len(page) < MOST_LOOKS or len(found) == before:
                return list(found.values())

    async def describe(self, shard: int, queues: Sequence[QueueName]) -> list[QueueWorkers]:
        """Return the workers of up to MOST_TICKETS queues of one shard in sum."""
        answers = await self._call("describe", shard, queues=_queue_rows(queues))
        return [QueueWorkers(*answer) for answer in answers]

    async def remember(self, queue: QueueName) -> bool:
        return bool(await self._call_queue("remember", queue))

    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead:
        return Lead(await self._call_queue("lead", queue, scaler=scaler_id, ttl_ms=round(ttl_s * 1000)))

    async def wake(self, queue: QueueName, within_s: float) -> None:
        await self._call_queue("wake", queue, within_ms=round(within_s * 1000))

    async def stats(self, queue: QueueName) -> QueueStats:
        answer = await self._call_queue("stats", queue)
        depth, batch_depth, yielding, oldest_ms, away_ms, woken, known, workers, *rest = answer
        *sums, arrivals, grants, refusals, hold_ms = rest
        slots, free, batch_busy, draining_workers, draining_slots, draining_free = sums
        return QueueStats(
            depth=depth + batch_depth,
            oldest_wait_s=oldest_ms / 1000,
            batch_depth=batch_depth,
            batch_busy=batch_busy,
            yielding=yielding,
            others_away_s=away_ms / 1000,
            workers=workers,
            slots=slots,
            busy=slots - free,
            draining_workers=draining_workers,
            draining_slots=draining_slots,
            draining_busy=draining_slots - draining_free,
            arrivals_per_s=float(arrivals),
            refusals_per_s=float(refusals),
            grants_per_s=float(grants),
            hold_s=float(hold_ms) / 1000,
            woken=bool(woken),
            known=bool(known),
        )

    async def _call_queue(self, operation: str, queue: QueueName, **arguments: Scalar | Sequence[Row]) -> Any:
        return await self._call(operation, self.keys.shard_of(queue), queue=str(queue), **arguments)

    async def _call(self, operation: str, shard: int, **arguments: Scalar | Sequence[Row]) -> Any:
        async with redis_call():
            return await LIBRARY.call(
                self._redis,
                self.keys.shard_prefix(shard),
                encode(operation, arguments),
                when_full=operation != "enqueue",  # all others free memory, or hardly use any
            )


def encode(operation: str, arguments: Mapping[str, Scalar | Sequence[Row]]) -> list[Scalar]:
    """Return the ARGV that lua/arguments.lua reads.

    [operation, layout, values of the scalars, then of each table: the number of its rows, and the values row by row].
    The layout has the names of the scalars, then of each table, after a ";", its name and its columns' names. Names of
    numbers end with "#". A caller has few layouts, and Redis keeps what it has read of each.
    """
    layout: list[str] = []
    tables: list[str] = []
    scalars: list[Scalar] = []
    rows: list[Scalar] = []
    for name, value in arguments.items():
        if isinstance(value, str | bytes | int | float):
            layout.append(_marked(name, value))
            scalars.append(value)
        else:
            columns = value[0] if value else {}
            tables.append(f";{' '.join([name, *map(_marked, columns, columns.values())])}")
            rows.append(len(value))
            rows += [row[column] for row in value for column in columns]
    return [operation, " ".join(layout) + "".join(tables), *scalars, *rows]


def _marked(name: str, value: Scalar) -> str:
    return name if isinstance(value, str | bytes) else f"{name}#"


def _ticket_rows(tickets: Iterable[tuple[QueueName, str]]) -> list[Row]:
    return [{"queue": str(queue), "id": ticket_id} for queue, ticket_id in tickets]


def _queue_rows(queues: Iterable[QueueName]) -> list[Row]:
    return [{"queue": str(queue)} for queue in queues]
