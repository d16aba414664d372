"""Many requests of all kinds, on a Redis that keeps dropping connections: no slot is lost, none is granted twice."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from contextlib import ExitStack

import pytest

from services.common.errors import Gone, TimedOut, Unavailable
from services.common.queues import Grant, QueueClient, SlotKeeper, TicketSpec
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

SLOTS = {"worker-1": 1, "worker-2": 2, "worker-3": 3}
REQUESTS = 120


class QueueTraffic:
    """Requests that are served, cancelled while they wait, returned, or never used."""

    def __init__(self, seed: int, gateways: list[QueueClient], workers: dict[str, SlotKeeper]) -> None:
        self.random = random.Random(seed)
        self.gateways = gateways
        self.workers = workers
        self.leases: list[str] = []
        self.opened: list[str] = []
        self.open_now: Counter[str] = Counter()
        self.fates: Counter[str] = Counter()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for number in range(REQUESTS):
                tasks.create_task(self.request(number))

    async def request(self, number: int) -> None:
        gateway = self.random.choice(self.gateways)
        fate = self.random.choices(("served", "cancelled", "given back", "unused"), (12, 4, 2, 1))[0]
        await asyncio.sleep(self.random.random())  # when it arrives
        terms = spec(
            self.random.choice(("acme", "beta", "corp")),
            priority=self.random.randint(-1, 1),
            cost=self.random.randint(1, 100),
            affinity=self.random.choice(("", "", "talk")),
        )
        waiting = asyncio.create_task(self.acquire(gateway, terms))
        if fate == "cancelled":
            await asyncio.wait([waiting], timeout=self.random.random() / 20)
            waiting.cancel()
            await asyncio.wait([waiting])
            if not waiting.cancelled():  # the grant was faster
                gateway.give_back(waiting.result())
        else:
            grant = await waiting
            if fate == "served":
                await self.serve(gateway, grant)
            elif fate == "given back":
                gateway.give_back(grant)
        self.fates[fate] += 1
        self.check()

    async def acquire(self, gateway: QueueClient, terms: TicketSpec, grant: Grant | None = None) -> Grant:
        while True:
            try:
                if grant is not None:
                    gateway.give_back(grant)
                found = await (gateway.acquire(QUEUE, terms) if grant is None else gateway.reacquire(grant))
            except Unavailable:
                await asyncio.sleep(0.05)  # as its Retry-After asks of a client
            else:
                self.leases.append(found.lease_id)
                return found

    async def serve(self, gateway: QueueClient, grant: Grant) -> None:
        worker = self.workers[grant.worker_id]
        try:
            with worker.open(grant.lease_id):
                self.opened.append(grant.lease_id)
                self.open_now[grant.worker_id] += 1
                self.check()
                await asyncio.sleep(self.random.random() / 50)  # the turn
                self.open_now[grant.worker_id] -= 1
        except Gone:  # the grant arrived too late
            await self.serve(gateway, await self.acquire(gateway, grant.spec, grant))
            return
        await gateway.settle(grant, 5)

    def check(self) -> None:
        for name, worker in self.workers.items():
            assert worker.free + worker.busy == SLOTS[name]
            assert self.open_now[name] <= worker.busy


async def disturb(server: RedisServer, seed: int) -> None:
    """Break all connections repeatedly, and once delete all data of Redis."""
    chance = random.Random(seed)
    for strike in range(1000):
        await asyncio.sleep(0.02 + chance.random() / 5)
        if strike == 3:
            with server.client() as redis:
                redis.flushall()
        server.break_connections()


async def acquire_once_back(gateway: QueueClient) -> Grant:
    """Acquire, and retry while the gateway still takes Redis to be away."""
    while True:
        try:
            return await gateway.acquire(QUEUE, spec())
        except Unavailable:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("seed", [1, 2])
async def test_no_slot_is_lost_and_every_request_ends(cluster: Cluster, redis_server: RedisServer, seed: int) -> None:
    gateways = [await cluster.gateway(f"gateway-{n}", heartbeat_s=0.2) for n in range(2)]
    workers = {name: await cluster.worker(name, slots, grant_timeout_s=0.5) for name, slots in SLOTS.items()}
    load = QueueTraffic(seed, gateways, workers)
    disturbance = asyncio.create_task(disturb(redis_server, seed))
    async with asyncio.timeout(HANGS_AFTER_S):
        await load.run()
    disturbance.cancel()
    await asyncio.gather(disturbance, return_exceptions=True)
    assert sum(load.fates.values()) == REQUESTS
    assert len(set(load.leases)) == len(load.leases)
    assert len(set(load.opened)) == len(load.opened)
    assert len(load.opened) == load.fates["served"]
    await wait_until(lambda: all(worker.free == SLOTS[name] for name, worker in workers.items()))
    await wait_until(lambda: depth_is(gateways[0], 0))
    # All slots can be acquired again.
    with ExitStack() as held:
        for _ in range(sum(SLOTS.values())):
            grant = await asyncio.wait_for(acquire_once_back(gateways[0]), HANGS_AFTER_S)
            held.enter_context(workers[grant.worker_id].open(grant.lease_id))
        assert {name: worker.busy for name, worker in workers.items()} == SLOTS


async def test_a_grant_that_races_its_cancel_is_returned_at_once(cluster: Cluster) -> None:
    """Cancel at every moment around the grant. Each time the only slot is free again, long before the grant timeout."""
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=60)
    fates: Counter[bool] = Counter()
    usual_s = 0.003
    for step in itertools.count():
        waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await asyncio.wait([waiting], timeout=usual_s * (step % 30) / 15)
        waiting.cancel()
        await asyncio.wait([waiting])
        fates[waiting.cancelled()] += 1
        if not waiting.cancelled():
            gateway.give_back(waiting.result())
        began_s = time.monotonic()
        grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec()), HANGS_AFTER_S)
        usual_s += (time.monotonic() - began_s - usual_s) / 8
        with worker.open(grant.lease_id):
            pass
        if step >= 59 and len(fates) == 2:  # each came first, the grant and the cancel
            break
    await wait_until(lambda: worker.free == 1)


async def test_a_grant_that_races_its_deadline_is_returned_at_once(cluster: Cluster) -> None:
    worker, patient = await cluster.worker(grant_timeout_s=60), await cluster.gateway("patient")
    waits_s = 0.03
    while True:
        async with cluster.alone() as own:
            gateway = await own.gateway(max_wait_s=waits_s)
            fates: Counter[bool] = Counter()
            for step in range(30):
                taken = await patient.acquire(QUEUE, spec())
                waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
                await asyncio.wait([waiting], timeout=waits_s * (0.5 + step / 60))
                patient.give_back(taken)
                await asyncio.wait([waiting])
                late = isinstance(waiting.exception(), TimedOut)
                fates[late] += 1
                if not late:
                    gateway.give_back(waiting.result())
        if len(fates) == 2:  # each came first, the grant and the deadline
            break
        # On a slow machine a grant takes longer than the whole wait.
        waits_s *= 2 if fates[True] else 0.7
    await wait_until(lambda: worker.free == 1)
