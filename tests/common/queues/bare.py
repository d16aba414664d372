"""queue.lua without gateways and workers: tests call one operation at a time."""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Any

from redis import Redis

from antiphon.v1 import queue_pb2
from services.common.queues.keys import QUEUE_KEYS, lua_key_table, queue_prefix

PREFIX = queue_prefix("thinker", "tiny")


def key(name: str, suffix: str = "") -> str:
    return f"{PREFIX}:{QUEUE_KEYS[name]}{suffix}"


class BareQueue:
    def __init__(self, redis: Redis) -> None:
        self.redis: Any = redis  # redis-py's types also allow what an async client returns
        text = resources.files("services.common.queues").joinpath("queue.lua").read_text()
        self.text = lua_key_table() + text
        self._script = redis.register_script(self.text)

    def call(self, operation: str, *args: str | bytes | float) -> Any:
        return self._script(keys=[PREFIX], args=[operation, *args])

    def enqueue(
        self,
        ticket: str,
        *,
        tenant: str = "acme",
        priority: int = 0,
        charge: float = 1.0,
        gateway: str = "gateway-1",
        remaining_ms: float = 60_000,
        affinity: str = "",
        affinity_wait_ms: int = 60_000,
        mode: str = "new",
        arrival_us: int | str = "",
        avoid: str = "",
    ) -> list[Any]:
        body = queue_pb2.GrantRecord(ticket=queue_pb2.Ticket(ticket_id=ticket)).SerializeToString()
        return self.call(
            "enqueue", ticket, body, gateway, 60_000, tenant, priority, charge, remaining_ms, affinity,
            affinity_wait_ms, 1000, 1000, mode, arrival_us, avoid,
        )  # fmt: skip

    def take(
        self, worker: str = "worker-1", slots: int = 1, leases: list[str] | None = None, held_ms: float | None = None
    ) -> list[str]:
        """Take up to `slots` tickets with new lease ids, or the given ones. Return the leases that were granted."""
        if leases is None:
            leases = [secrets.token_hex(8) for _ in range(slots)]
        _, *granted = self.call(*take_arguments(worker, leases, held_ms))
        return [lease.decode() for lease in granted]

    def take_and_lose_the_news(self, worker: str, lease: str) -> bytes:
        """Take a ticket, and delete gateway-1's message about it in the same transaction."""
        with self.redis.pipeline(transaction=True) as pipe:
            pipe.execute_command("EVAL", self.text, 1, PREFIX, *take_arguments(worker, [lease]))
            pipe.lpop(key("reply", "gateway-1"))
            return pipe.execute()[-1]

    def received_grants(self, gateway: str = "gateway-1") -> list[queue_pb2.GrantRecord]:
        """Pop all grants from the gateway's list."""
        encoded = self.redis.lpop(key("reply", gateway), 1000) or []
        return [queue_pb2.GrantRecord.FromString(record) for record in encoded]

    def serve(self, worker: str = "worker-1", slots: int = 1) -> list[str]:
        """Take tickets for the worker. Return the ids of those that gateway-1 was told about."""
        self.take(worker, slots)
        return [record.ticket.ticket_id for record in self.received_grants()]

    def waiting(self) -> list[str]:
        """Return the ids in all queues; a ticket in two queues is listed twice."""
        queues = [key("queue"), *self.redis.scan_iter(key("worker_queue", "*").replace("{", "\\{"))]
        return [member.decode()[17:] for queue in queues for member in self.redis.zrange(queue, 0, -1)]


def take_arguments(worker: str, leases: list[str], held_ms: float | None = None) -> tuple[Any, ...]:
    halves = [queue_pb2.GrantRecord(lease_id=lease, worker_id=worker).SerializeToString() for lease in leases]
    closed = 0 if held_ms is None else 1
    return (
        "take", worker, b"", len(leases), len(leases), len(leases), 60_000, 60_000, closed, held_ms or 0,
        *(part for pair in zip(leases, halves, strict=True) for part in pair),
    )  # fmt: skip
