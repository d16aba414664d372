"""The quarantine lets suspects into an engine one at a time."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from services.common.quarantine import Quarantine


async def waits(entering: asyncio.Task[ExitStack]) -> bool:
    await asyncio.sleep(0)
    return not entering.done()


async def test_the_next_suspect_enters_once_the_one_before_is_cleared() -> None:
    quarantine = Quarantine(60.0)
    first = await quarantine.enter(1)
    second = asyncio.create_task(quarantine.enter(2))
    assert await waits(second)
    first.close()
    third = asyncio.create_task(quarantine.enter(1))
    (await second).close()
    first.close()  # at its end: it was cleared before
    fourth = asyncio.create_task(quarantine.enter(1))
    with await third:
        assert await waits(fourth)
    (await fourth).close()


async def test_other_requests_do_not_wait() -> None:
    quarantine = Quarantine(60.0)
    with await quarantine.enter(1), await quarantine.enter(0), await quarantine.enter(0):
        pass


async def test_a_suspect_that_leaves_while_it_waits_holds_nobody_up() -> None:
    quarantine = Quarantine(60.0)
    with await quarantine.enter(1):
        leaves = asyncio.create_task(quarantine.enter(1))
        assert await waits(leaves)
        leaves.cancel()
    (await quarantine.enter(1)).close()


async def test_a_suspect_without_work_holds_the_next_one_up_for_a_bounded_time() -> None:
    quarantine = Quarantine(0.05)
    idle = await quarantine.enter(1)
    (await quarantine.enter(1)).close()
    idle.close()
