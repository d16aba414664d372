"""How many models one gateway can serve, and how many requests can wait in it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from bench.queues.fleet import server
from services.common.errors import Unavailable
from services.common.queues import Grant, QueueClient, QueueLimits, QueueName, TicketSpec
from services.common.queues.known import KnownQueues
from services.common.redis_client import connect
from tests.common.queues.bare import BareQueue
from tests.fixtures.wait import wait_until

STAGES = ("preprocess", "thinker", "talker")


@asynccontextmanager
async def gateway(url: str, **limits: Any) -> AsyncGenerator[QueueClient]:
    redis = connect(url)
    client = QueueClient(redis, "gateway", QueueLimits(**limits))
    running = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await redis.aclose()


def _take_one_of_each(redis: Any, queues: Sequence[QueueName]) -> None:
    """Take a ticket of each queue, as a worker of its own."""
    for number, queue in enumerate(queues):
        BareQueue(redis, queue).take(f"worker-{number}")


async def models(kind: str, count: int = 200) -> dict[str, Any]:
    """A gateway waits in each queue of `count` models at once, and reads what they serve."""
    queues = [QueueName(stage, f"model-{number}") for number in range(count) for stage in STAGES]
    with server(kind) as running, running.client() as redis:
        async with gateway(running.url) as client:
            before = len(redis.client_list())
            known = KnownQueues(connect(running.url))
            for queue in queues:
                await known.keep(queue)
            asking = [asyncio.create_task(client.acquire(queue, TicketSpec("request", "acme"))) for queue in queues]
            await wait_until(lambda: redis.scard("antiphon:4:{0}:gateway:gateway") == len(queues), within_s=60)
            connections = len(redis.client_list())
            began_s = time.perf_counter()
            # Without keepers: hundreds of them in this process would be what is measured.
            await asyncio.to_thread(_take_one_of_each, redis, queues)
            await asyncio.gather(*asking)
            granted_s = time.perf_counter() - began_s
            began_s = time.perf_counter()
            served = await client.models()
            read_s = time.perf_counter() - began_s
            return {
                "models": len(served),
                "queues": len(queues),
                "connections_of_the_gateway": connections - before + 1,
                "all_granted_s": round(granted_s, 2),
                "directory_read_ms": round(read_s * 1000, 1),
            }


async def _breathe(number: int) -> None:
    """Let the event loop read its sockets now and then: real clients do not all come and leave in one turn of it."""
    if number % 100 == 0:
        await asyncio.sleep(0.001)


async def waiting_in_one_gateway(kind: str, count: int = 20_000) -> dict[str, Any]:
    """`count` requests wait in one gateway; Redis loses its memory; then all clients leave."""
    queue = QueueName("thinker", "model")
    with server(kind) as running, running.client() as redis:
        async with gateway(running.url, max_waiting=count, max_waiting_per_tenant=count) as client:

            async def waits(number: int) -> bool:
                try:
                    return (await client.stats(queue)).depth == number
                except Unavailable:  # this process was too busy to read the answer in time
                    return False

            took: dict[str, float] = {}

            async def timed(what: str, number: int) -> None:
                began_s = time.perf_counter()
                await wait_until(lambda: waits(number), within_s=120)
                took[what] = round(time.perf_counter() - began_s, 2)

            asking: list[asyncio.Task[Grant]] = []
            for number in range(count):
                asking.append(
                    asyncio.create_task(client.acquire(queue, TicketSpec("request", f"tenant-{number % 1000}")))
                )
                await _breathe(number)
            await timed("all_wait_s", count)
            redis.flushall()
            await timed("put_back_s", count)
            for number, task in enumerate(asking):
                task.cancel()
                await _breathe(number)
            await timed("all_left_s", 0)
            await asyncio.gather(*asking, return_exceptions=True)
            return {"waiting": count, **took}
