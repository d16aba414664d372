"""A drained worker waits for what other stages may still fetch from it, while no other worker can make it again."""

from __future__ import annotations

import asyncio

from tests.common.queues.conftest import QUEUE, Cluster
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def test_what_a_lone_worker_holds_is_waited_for(cluster: Cluster) -> None:
    worker, released = await cluster.worker(), asyncio.Event()
    worker.drain()
    leaving = asyncio.create_task(worker.hand_over(0.0, released.wait))
    await worker.wait_idle()
    assert not leaving.done()
    released.set()
    await asyncio.wait_for(leaving, HANGS_AFTER_S)


async def test_what_a_worker_holds_is_left_behind_where_another_is(cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker()
    await cluster.worker("worker-2")

    async def both_are_shown() -> bool:
        return len(await gateway.workers(QUEUE)) == 2

    await wait_until(both_are_shown)
    worker.drain()
    await asyncio.wait_for(worker.hand_over(0.0, asyncio.Event().wait), HANGS_AFTER_S)
