"""The queues' script without gateways and workers: tests call one operation at a time."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis import Redis
from redis.exceptions import ResponseError

from antiphon.v1 import queue_pb2
from services.common.queues.keys import Keyspace
from services.common.queues.library import LIBRARY
from services.common.queues.script import Discard, NewTicket, Row, Scalar, Settlement, encode
from services.common.queues.tickets import QueueName

QUEUE = QueueName("thinker", "tiny")


class BareQueue:
    """One queue on the server of a synchronous client."""

    def __init__(self, redis: Redis, queue: QueueName = QUEUE) -> None:
        self.redis: Any = redis  # redis-py's types also allow what an async client returns
        self.queue = queue
        self.max_waiting = self.max_waiting_per_tenant = 10**6
        self.share, self.quiet_ms, self.every_ms = 0.0, 0, 60_000  # the terms of batches beside others
        self.keys = Keyspace(redis)
        self._shard = self.keys.shard_of(queue)
        self._prefix = self.keys.shard_prefix(self._shard)
        with suppress(ResponseError):  # it is there
            self.redis.function_load(LIBRARY.text)

    def key(self, name: str, suffix: str = "") -> str:
        return self.keys.queue_key(self.queue, name, suffix)

    def shard_key(self, name: str, suffix: str = "") -> str:
        return self.keys.shard_key(self._shard, name, suffix)

    def call(self, operation: str, **arguments: Scalar | Sequence[Row]) -> Any:
        return self.redis.fcall(LIBRARY.function, 1, self._prefix, *encode(operation, arguments))

    def call_here(self, operation: str, **arguments: Scalar | Sequence[Row]) -> Any:
        """Call an operation on this queue."""
        return self.call(operation, queue=str(self.queue), **arguments)

    def ticket(self, ticket_id: str, *, tenant: str = "acme", priority: int = 0, **terms: Any) -> Row:
        terms = {"charge": 1.0, "remaining_ms": 60_000.0} | terms
        return NewTicket(self.queue, ticket_id, "request", tenant, priority, **terms).row

    def enqueue(
        self, *tickets: str | Row, gateway: str = "gateway-1", affinity_wait_ms: int = 60_000, **terms: Any
    ) -> list[Any]:
        """Put tickets into the queue. Return the verdict on the last one."""
        rows = [self.ticket(ticket, **terms) if isinstance(ticket, str) else ticket for ticket in tickets]
        verdicts = self.call(
            "enqueue", gateway=gateway, gateway_ttl_ms=60_000, max_waiting=self.max_waiting,
            max_waiting_per_tenant=self.max_waiting_per_tenant, affinity_wait_ms=affinity_wait_ms,
            batch_share=self.share, batch_quiet_ms=self.quiet_ms, batch_every_ms=self.every_ms, tickets=rows,
        )  # fmt: skip
        return verdicts[-1]

    def take(
        self,
        worker: str = "worker-1",
        slots: int = 1,
        leases: list[str] | None = None,
        held_ms: float | None = None,
        held: dict[str, int] | None = None,
        others: int = 0,
        batch: int = 0,
    ) -> list[str]:
        """Take up to `slots` tickets with new lease ids, or the given ones. Return the leases that were granted."""
        if leases is None:
            leases = [secrets.token_hex(8) for _ in range(slots)]
        return self.ask(worker, leases, held_ms, held, others, batch)[1]

    def ask(self, worker: str, leases: list[str], *terms: Any, **holds: int) -> tuple[int, list[str]]:
        """Take as `take`. Return also after how many ms the worker should ask again."""
        again_ms, _, granted = self.call_here("take", **take_arguments(worker, leases, *terms, **holds))
        return again_ms, [lease.decode() for lease, *_ in granted]

    def take_and_lose_the_news(self, worker: str, lease: str) -> bytes:
        """Take a ticket, and delete gateway-1's message about it in the same transaction."""
        arguments = encode("take", {"queue": str(self.queue), **take_arguments(worker, [lease])})
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.fcall(LIBRARY.function, 1, self._prefix, *arguments)
            pipe.lpop(self.shard_key("grants", "gateway-1"))
            return pipe.execute()[-1]

    def discard(self, *tickets: str, spent: bool = False) -> None:
        self.call("discard", tickets=[Discard(self.queue, ticket, spent).row for ticket in tickets])

    def settle(self, tenant: str, by: float, priority: int = 0) -> None:
        self.call("settle", turns=[Settlement(self.queue, tenant, priority, by).row])

    def gateway_dies(self, gateway: str) -> None:
        """End the gateway's heartbeat, and let calls drop all its tickets."""
        self.redis.zadd(self.shard_key("gateways"), {gateway: 0}, xx=True)
        while self.call("reap"):
            pass

    def received_grants(self, gateway: str = "gateway-1") -> list[queue_pb2.GrantRecord]:
        """Pop all grants from the gateway's list."""
        encoded = self.redis.lpop(self.shard_key("grants", gateway), 1000) or []
        return [queue_pb2.GrantRecord.FromString(record) for record in encoded]

    def serve(
        self,
        worker: str = "worker-1",
        slots: int = 1,
        held: dict[str, int] | None = None,
        others: int = 0,
        batch: int = 0,
    ) -> list[str]:
        """Take tickets for the worker. Return the ids of those that gateway-1 was told about."""
        self.take(worker, slots, held=held, others=others, batch=batch)
        return [record.ticket.ticket_id for record in self.received_grants()]

    def tenant_queues(self) -> dict[tuple[str, int, str], list[str]]:
        """Return the waiting tickets by (worker, priority, tenant). A ticket in two queues is listed twice."""
        prefix = self.key("tenant_queue")
        found: dict[tuple[str, int, str], list[str]] = {}
        for name in self.redis.scan_iter(prefix.replace("{", "\\{") + "*"):
            worker, priority, tenant = name.decode().removeprefix(prefix).split("/")
            found[worker, int(priority), tenant] = [id_.decode() for id_ in self.redis.zrange(name, 0, -1)]
        return found

    def waiting(self) -> list[str]:
        """Return the ids in all queues; a ticket in two queues is listed twice."""
        return [ticket for queue in self.tenant_queues().values() for ticket in queue]


def take_arguments(
    worker: str,
    leases: list[str],
    held_ms: float | None = None,
    held: dict[str, int] | None = None,
    others: int = 0,
    batch: int = 0,
) -> dict[str, Any]:
    """`others`, `batch`: slots that the worker holds and does not offer, of tickets above BATCH and the rest."""
    halves = [queue_pb2.GrantRecord(lease_id=lease, worker_id=worker).SerializeToString() for lease in leases]
    return {
        "worker": worker, "info": queue_pb2.WorkerInfo(worker_id=worker).SerializeToString(), "card": b"",
        "slots": len(leases) + others + batch, "free": len(leases), "draining": 0,
        "worker_ttl_ms": 60_000, "most": len(leases),
        "held": [{"holder": holder, "slots": slots} for holder, slots in (held or {}).items()],
        "ask": 0, "known": 0, "all_held": int(held is not None), "batch_held": batch, "unheard": [], "grant_ms": 60_000,
        "closed": 0 if held_ms is None else 1, "held_ms": held_ms or 0,
        "offers": [{"lease": lease, "record": half} for lease, half in zip(leases, halves, strict=True)],
    }  # fmt: skip
