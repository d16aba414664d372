"""The normal life of a ticket."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.common.errors import Capacity, Gone, TimedOut, Unavailable
from services.common.queues import PriorityClass, QueueClient, QueueName, TenantTerms, tickets
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def test_a_ticket_is_granted_by_a_free_worker_and_its_lease_opens_once(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    grant = await gateway.acquire(QUEUE, spec())
    assert (grant.worker_id, grant.address) == ("worker-1", "127.0.0.1:worker-1")
    await wait_until(lambda: (worker.free, worker.busy) == (1, 1))
    with worker.open(grant.lease_id):
        assert worker.busy == 1
        with pytest.raises(Gone), worker.open(grant.lease_id):
            pass
    assert (worker.free, worker.busy) == (2, 0)
    with pytest.raises(Gone), worker.open(grant.lease_id):
        pass
    with pytest.raises(Gone), worker.open("unknown"):
        pass


async def test_a_grant_takes_milliseconds(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    waits_s: list[float] = []
    for _ in range(20):
        began_s = time.monotonic()
        grant = await gateway.acquire(QUEUE, spec())
        with worker.open(grant.lease_id):
            waits_s.append(time.monotonic() - began_s)
    # Milliseconds on a quiet machine. What polls once a second would take half a second.
    assert sorted(waits_s)[10] < 0.3


async def test_a_busy_worker_receives_no_work_until_its_slot_is_free(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    first = await gateway.acquire(QUEUE, spec())
    with worker.open(first.lease_id):
        second = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        assert not second.done()
    grant = await second
    with worker.open(grant.lease_id):
        pass


async def test_cancelling_the_wait_removes_the_ticket(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 1))
    waiting.cancel()
    await wait_until(lambda: depth_is(gateway, 0))


async def test_a_deadline_ends_the_wait(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    with pytest.raises(TimedOut):
        await gateway.acquire(QUEUE, spec(deadline_unix_ms=round(time.time() * 1000) + 200))
    await wait_until(lambda: depth_is(gateway, 0))


async def test_a_full_queue_and_a_full_tenant_are_refused_with_a_retry_time(cluster: Cluster) -> None:
    gateway = await cluster.gateway(max_waiting=3, max_waiting_per_tenant=2)
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(gateway.acquire(QUEUE, spec(tenant))) for tenant in ("acme", "acme", "zeta")]
        await wait_until(lambda: depth_is(gateway, 3))
        with pytest.raises(Capacity) as refused:
            await gateway.acquire(QUEUE, spec("other"))
        assert refused.value.code == "queue_full"
        assert refused.value.retry_after_s is not None
        assert refused.value.retry_after_s >= 1
        waiting.pop().cancel()
        await wait_until(lambda: depth_is(gateway, 2))
        with pytest.raises(Capacity) as refused:
            await gateway.acquire(QUEUE, spec("acme"))
        assert refused.value.code == "tenant_queue_full"
        for task in waiting:
            task.cancel()


async def test_without_a_worker_tickets_soon_fail_at_once(cluster: Cluster) -> None:
    gateway = await cluster.gateway(worker_wait_s=1.0, heartbeat_s=0.1)
    began_s = time.monotonic()
    with pytest.raises(Unavailable) as refused:
        await gateway.acquire(QUEUE, spec())
    waited_s = time.monotonic() - began_s
    assert refused.value.code == "no_worker"
    assert refused.value.message == f"No {QUEUE.stage} worker serves this model at the moment."
    began_s = time.monotonic()
    with pytest.raises(Unavailable):
        await gateway.acquire(QUEUE, spec())
    assert time.monotonic() - began_s < waited_s


async def test_a_ticket_waits_as_long_as_measured_starts_take(cluster: Cluster) -> None:
    gateway = await cluster.gateway(worker_wait_s=0.01, heartbeat_s=0.05)
    async with cluster.alone() as first:
        worker = await first.worker("slow", start_s=60.0)
        await wait_until(lambda: has_worker(gateway))
        grant = await gateway.acquire(QUEUE, spec())
        with worker.open(grant.lease_id):
            waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
            await wait_until(lambda: depth_is(gateway, 1))
            worker.drain()
    await wait_until(lambda: no_worker_shown(gateway))
    await asyncio.wait((waiting,), timeout=0.5)  # fifty times the limit without a measured start
    assert not waiting.done()
    await cluster.worker("next")
    assert (await waiting).worker_id == "next"


async def test_a_turn_that_resumes_waits_longer_for_a_worker(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tickets.RESUME_STARTS > tickets.STARTS
    monkeypatch.setattr(tickets, "RESUME_STARTS", 400)  # for as long as the next worker may take on any machine
    gateway = await cluster.gateway(worker_wait_s=0.01, heartbeat_s=0.05)
    async with cluster.alone() as first:
        worker = await first.worker("slow", slots=2, start_s=0.5)  # new tickets wait for 1.5 s
        await wait_until(lambda: has_worker(gateway))
        lost = await gateway.acquire(QUEUE, spec())
        with worker.open(lost.lease_id):
            worker.drain()
    await wait_until(lambda: no_worker_shown(gateway))
    resumes = asyncio.create_task(gateway.reacquire(lost))
    with pytest.raises(Unavailable) as refused:
        await gateway.acquire(QUEUE, spec())
    assert refused.value.code == "no_worker"
    assert not resumes.done()
    await cluster.worker("next", start_s=0.5)  # its start counts from now on, should its heartbeat be late
    assert (await resumes).worker_id == "next"


async def has_worker(gateway: QueueClient) -> bool:
    return bool(await gateway.workers(QUEUE))


async def no_worker_shown(gateway: QueueClient) -> bool:
    return not await has_worker(gateway)


@pytest.mark.parametrize(
    ("asked", "of_tenant"),
    [(PriorityClass.BATCH, 1), (PriorityClass.BATCH, -3), (PriorityClass.READ_AHEAD, 3), (-3, 1)],
)
async def test_tenants_of_any_priority_get_slots_for_what_asks_for_less(
    cluster: Cluster, asked: int, of_tenant: int
) -> None:
    gateway, worker = await cluster.gateway(tenants={"acme": TenantTerms(priority=of_tenant)}), await cluster.worker()
    grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec(priority=asked)), HANGS_AFTER_S)
    with worker.open(grant.lease_id):
        await gateway.settle(grant, cost=2.0)


async def test_models_and_stats_show_what_live_workers_serve(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    thinker = await cluster.worker("thinker-1", slots=3)
    await cluster.worker("talker-1", queue=QueueName("talker", "tiny"))
    await wait_until(lambda: has_stages(gateway, "thinker", "talker"))
    models = await gateway.models()
    assert models["tiny"].card.max_model_len == 128
    grant = await gateway.acquire(QUEUE, spec())
    with thinker.open(grant.lease_id):
        stats = await gateway.stats(QUEUE)
        assert (stats.depth, stats.workers, stats.slots, stats.busy) == (0, 1, 3, 1)
        (shown,) = await gateway.workers(QUEUE)
        assert (shown.address, shown.slots, shown.busy) == ("127.0.0.1:thinker-1", 3, 1)


async def has_stages(gateway: QueueClient, *stages: str) -> bool:
    models = await gateway.models()
    return "tiny" in models and models["tiny"].stages == frozenset(stages)


async def test_drain_finishes_a_granted_ticket_and_takes_no_new_one(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    grant = await gateway.acquire(QUEUE, spec())
    worker.drain()
    waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(gateway, 1))
    idle = asyncio.create_task(worker.wait_idle())
    with worker.open(grant.lease_id):
        assert not idle.done()
    await asyncio.wait_for(idle, HANGS_AFTER_S)
    assert not waiting.done()
    waiting.cancel()
