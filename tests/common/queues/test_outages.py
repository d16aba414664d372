"""Redis is down, hangs, or loses its data: running calls continue, new ones are refused, and all recovers by itself."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from services.common import redis_client
from services.common.errors import Gone, TimedOut, Unavailable
from services.common.queues import Grant, QueueClient, QueueName
from services.common.queues.known import KnownQueues
from services.common.queues.script import QueueScript
from tests.common.queues.bare import BareQueue, take_arguments
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


@pytest.fixture(autouse=True, scope="module")
def patient_with_redis() -> None:
    """Not here: Redis is to be taken for away."""


async def refused(gateway: QueueClient) -> None:
    """Assert that a request for a slot is refused as Unavailable."""
    with pytest.raises(Unavailable) as error:
        await asyncio.wait_for(gateway.acquire(QUEUE, spec()), HANGS_AFTER_S)
    assert error.value.retry_after_s is not None
    assert error.value.retry_after_s > 0


async def granted_again(gateway: QueueClient) -> bool:
    try:
        grant = await gateway.acquire(QUEUE, spec())
    except Unavailable:
        return False
    gateway.give_back(grant)
    return True


async def three_waiting(gateway: QueueClient) -> list[asyncio.Task[Grant]]:
    """Queue three tickets in this order. The gateway has heard that they wait: a new ticket is refused where Redis goes
    away before its answer."""
    waiting: list[asyncio.Task[Grant]] = []
    heard: list[str] = []
    gateway.on_ticket = lambda _queue, request_id: heard.append(request_id)
    for number in range(3):
        waiting.append(asyncio.create_task(gateway.acquire(QUEUE, spec(f"tenant-{number}"))))
        await wait_until(lambda: len(heard) == len(waiting))
    assert await depth_is(gateway, 3)
    return waiting


async def test_redis_dies_and_comes_back_empty(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = await three_waiting(gateway)
        redis_server.kill()
        await refused(gateway)
        assert worker.busy == 1  # the open call is not affected
        assert not any(task.done() for task in waiting)
        redis_server.start()
        await wait_until(lambda: depth_is(gateway, 3))
        assert not any(task.done() for task in waiting)
    for task in waiting:  # in the order of arrival
        grant = await asyncio.wait_for(task, HANGS_AFTER_S)
        with worker.open(grant.lease_id):
            assert worker.busy == 1
    assert [info.worker_id for info in await gateway.workers(QUEUE)] == ["worker-1"]
    await wait_until(lambda: granted_again(gateway))


@pytest.mark.parametrize("outage", ["killed", "hangs"])
async def test_a_turn_that_resumes_waits_for_redis(cluster: Cluster, redis_server: RedisServer, outage: str) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    lost = await gateway.acquire(QUEUE, spec())
    with worker.open(lost.lease_id):
        redis_server.kill() if outage == "killed" else redis_server.pause()
        finds_out = asyncio.create_task(gateway.reacquire(lost))
        await refused(gateway)
        knows = asyncio.create_task(gateway.reacquire(lost))
        hurried = replace(lost, spec=spec(deadline_unix_ms=round(time.time() * 1000) + 300))
        with pytest.raises(TimedOut):
            await gateway.reacquire(hurried)
        assert not finds_out.done()
        assert not knows.done()
        redis_server.start() if outage == "killed" else redis_server.resume()
        for resumed in (finds_out, knows):
            grant = await asyncio.wait_for(resumed, HANGS_AFTER_S)
            gateway.give_back(grant)


async def test_a_turn_that_ends_while_it_waits_for_redis_leaves_no_ticket(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    """Redis reads what it was sent while it stood still: the ticket enters its queue after the turn ended."""
    gateway, worker = await cluster.gateway(), await cluster.worker()
    lost = await gateway.acquire(QUEUE, spec())
    with worker.open(lost.lease_id):
        redis_server.pause()
        resumes = asyncio.create_task(gateway.reacquire(lost))
        await refused(gateway)
        resumes.cancel()
        await asyncio.gather(resumes, return_exceptions=True)
        redis_server.resume()
        entered = list[str]()
        gateway.on_ticket = lambda _queue, request_id: entered.append(request_id)
        waits = asyncio.create_task(gateway.reacquire(lost))
        await wait_until(lambda: entered)
        await wait_until(lambda: depth_is(gateway, 1))
        waits.cancel()


async def test_a_gateway_that_stops_while_redis_is_away_fails_what_waits(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    stops = QueueClient(await cluster.redis(), "stops")
    run = asyncio.create_task(stops.run())
    worker = await cluster.worker()
    lost = await stops.acquire(QUEUE, spec())
    with worker.open(lost.lease_id):
        redis_server.kill()
        await refused(stops)
        resumes = asyncio.create_task(stops.reacquire(lost))
        await asyncio.sleep(0)
        run.cancel()
        with pytest.raises(Unavailable):
            await resumes
    await asyncio.gather(run, return_exceptions=True)
    redis_server.start()


async def test_redis_loses_its_data(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = await three_waiting(gateway)
        with redis_server.client() as redis:
            redis.flushall()
        await wait_until(lambda: depth_is(gateway, 3))
    for task in waiting:
        grant = await asyncio.wait_for(task, HANGS_AFTER_S)
        with worker.open(grant.lease_id):
            assert worker.busy == 1


async def test_data_lost_between_grant_and_call_loses_nothing(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    grant = await gateway.acquire(QUEUE, spec())
    with redis_server.client() as redis:
        redis.flushall()
    with worker.open(grant.lease_id):
        assert worker.busy == 1


@pytest.mark.parametrize("lost_answers", [1, 2])
async def test_a_lease_whose_grant_was_forgotten_unheard_is_not_granted_again(
    cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, lost_answers: int
) -> None:
    """The worker never hears of its first grant, and Redis loses its data before the worker asks again. Nor may it hear
    that Redis did not know it then: at its next ask it is known again."""
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    take, is_lost, left = QueueScript.take, asyncio.Event(), [lost_answers]

    async def lose_answers_from_the_first_grant_on(self: QueueScript, *arguments: Any, **terms: Any) -> Any:
        answer = await take(self, *arguments, **terms)
        if left[0] and (answer.grants or is_lost.is_set()):
            if not is_lost.is_set():
                with redis_server.client() as redis:
                    redis.flushall()
            is_lost.set()
            left[0] -= 1
            raise Unavailable("the answer is lost")
        return answer

    monkeypatch.setattr(QueueScript, "take", lose_answers_from_the_first_grant_on)
    first = await gateway.acquire(QUEUE, spec())
    await is_lost.wait()
    second = await asyncio.wait_for(gateway.acquire(QUEUE, spec()), HANGS_AFTER_S)
    assert second.lease_id != first.lease_id
    with worker.open(second.lease_id), pytest.raises(Gone), worker.open(first.lease_id):
        pass
    await wait_until(lambda: worker.free == 1)


def test_an_ask_that_is_sent_again_after_a_loss_of_data_grants_nothing(redis_server: RedisServer) -> None:
    """The client sends a call again when its connection broke: the first may have granted the same leases."""
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        assert queue.take("worker-1", leases=[]) == []
        redis.flushall()
        queue.enqueue("ticket-1")
        again_ms, known, granted = queue.call_here("take", **take_arguments("worker-1", ["lease"]) | {"known": 1})
        assert (again_ms, known, granted) == (0, 0, [])
        assert queue.take("worker-1", leases=["another"]) == ["another"]


async def test_a_first_ask_that_is_sent_again_after_a_loss_of_data_grants_nothing_twice(
    cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway, take, is_sent = await cluster.gateway(), QueueScript.take, asyncio.Event()
    waiting = await three_waiting(gateway)

    async def send_the_first_again(self: QueueScript, *arguments: Any, **terms: Any) -> Any:
        if not is_sent.is_set():
            is_sent.set()
            await take(self, *arguments, **terms)
            with redis_server.client() as redis:
                redis.flushall()
            await wait_until(lambda: some_wait(gateway))
        return await take(self, *arguments, **terms)

    monkeypatch.setattr(QueueScript, "take", send_the_first_again)
    worker, leases = await cluster.worker(slots=2), list[str]()
    for next_one in asyncio.as_completed(waiting, timeout=HANGS_AFTER_S):
        grant = await next_one
        leases.append(grant.lease_id)
        with worker.open(grant.lease_id):
            pass
    assert len(set(leases)) == 3


async def some_wait(gateway: QueueClient) -> bool:
    return not await depth_is(gateway, 0)


async def test_an_ask_that_comes_after_later_ones_does_nothing(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network has kept it back, and the worker has given its answer up."""
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=1)
    take, kept_back, asked_since = QueueScript.take, list[Any](), [0]

    async def keep_one_back(self: QueueScript, *arguments: Any, **terms: Any) -> Any:
        if not kept_back and terms["most"]:
            kept_back.append(partial(take, self, *arguments, **terms))
            raise Unavailable("no answer")
        answer = await take(self, *arguments, **terms)
        asked_since[0] += 1
        return answer

    monkeypatch.setattr(QueueScript, "take", keep_one_back)
    await wait_until(lambda: kept_back)
    asked_since[0] = 0
    await wait_until(lambda: asked_since[0] > 2)
    with worker.open((await gateway.acquire(QUEUE, spec("other"))).lease_id):
        waits = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        assert (await kept_back[0]()).grants == []
        assert await gateway.held(QUEUE) == {"other": 1}
    grant = await asyncio.wait_for(waits, HANGS_AFTER_S)
    with worker.open(grant.lease_id):
        pass


async def test_a_worker_that_cannot_be_listed_takes_tickets(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list may be on a node of its own, and that node away."""
    gateway = await cluster.gateway()

    async def be_away(self: KnownQueues, queue: QueueName) -> None:
        raise Unavailable("the list is away")

    monkeypatch.setattr(KnownQueues, "keep", be_away)
    worker = await cluster.worker()
    grant = await asyncio.wait_for(gateway.acquire(QUEUE, spec()), HANGS_AFTER_S)
    with worker.open(grant.lease_id):
        assert worker.busy == 1


async def test_a_worker_hears_that_its_queue_has_forgotten_it(
    cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is known it tells what has changed alone, and is not listed again at each ask."""
    take, asked = QueueScript.take, list[tuple[bool, bool]]()

    async def note(self: QueueScript, *arguments: Any, **terms: Any) -> Any:
        answer = await take(self, *arguments, **terms)
        asked.append((terms["all_held"], answer.known))
        return answer

    monkeypatch.setattr(QueueScript, "take", note)
    await cluster.worker(slots=1)
    await wait_until(lambda: len(asked) > 2)
    assert asked[0] == (True, False)
    assert set(asked[1:]) == {(False, True)}
    with redis_server.client() as redis:
        redis.flushall()
    await wait_until(lambda: (True, False) in asked[1:])
    shown_again = asked.index((True, False), 1)
    assert asked[shown_again - 1] == (False, False)
    await wait_until(lambda: len(asked) > shown_again + 1)
    assert asked[shown_again + 1] == (False, True)


async def test_redis_hangs(cluster: Cluster, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway, worker = await cluster.gateway(gateway_ttl_s=2.0), await cluster.worker(slots=1)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
        await wait_until(lambda: depth_is(gateway, 1))
        redis_server.pause()
        try:
            await refused(gateway)  # the first call detects the hang
            with monkeypatch.context() as patch:
                patch.setattr(redis_client, "TIMEOUT_S", 2 * HANGS_AFTER_S)
                await refused(gateway)  # without asking Redis, which would hang
            assert worker.busy == 1
        finally:
            redis_server.resume()
        # The heartbeats were late: the ticket may have been dropped, and is then queued again.
        await wait_until(lambda: depth_is(gateway, 1))
    grant = await asyncio.wait_for(waiting, HANGS_AFTER_S)
    with worker.open(grant.lease_id):
        pass
    await wait_until(lambda: granted_again(gateway))
    await wait_until(lambda: worker.free == 1)


async def test_a_drained_worker_becomes_idle_without_redis(cluster: Cluster, redis_server: RedisServer) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=0.3)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        redis_server.kill()
        worker.drain()
        idle = asyncio.create_task(worker.wait_idle())
    await asyncio.wait_for(idle, HANGS_AFTER_S)
    redis_server.start()


async def test_a_drained_worker_is_not_idle_while_a_grant_may_be_on_its_way(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        await wait_until(lambda: worker.busy == 1)
        redis_server.pause()
    try:
        await refused(gateway)  # the worker has sent its request and has no answer
        worker.drain()
        idle = asyncio.create_task(worker.wait_idle())
        done, _ = await asyncio.wait([idle], timeout=0.2)
        assert not done
    finally:
        redis_server.resume()
    await asyncio.wait_for(idle, HANGS_AFTER_S)


async def test_a_gateway_that_stops_leaves_nothing_behind(cluster: Cluster) -> None:
    looks = await cluster.gateway("looks")
    stops = QueueClient(await cluster.redis(), "stops")
    run = asyncio.create_task(stops.run())
    waiting = asyncio.create_task(stops.acquire(QUEUE, spec()))
    await wait_until(lambda: depth_is(looks, 1))
    run.cancel()
    with pytest.raises(Unavailable):
        await waiting
    await asyncio.gather(run, return_exceptions=True)
    assert await depth_is(looks, 0)
    with pytest.raises(Unavailable):
        await stops.acquire(QUEUE, spec())
    assert await (await cluster.redis()).keys("*stops*") == []


async def test_a_stopped_worker_is_unlisted_at_once(cluster: Cluster) -> None:
    gateway = await cluster.gateway()
    async with cluster.alone() as own:
        await own.worker()
        await wait_until(lambda: shows(gateway, "worker-1"))
    assert await gateway.workers(QUEUE) == []
    assert await gateway.models() == {}


async def shows(gateway: QueueClient, *worker_ids: str) -> bool:
    return [info.worker_id for info in await gateway.workers(QUEUE)] == list(worker_ids)
