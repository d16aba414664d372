"""Moved calls: each frees its resources, and then its caller is told to move."""

import asyncio

from services.common.errors import MOVED, Unavailable
from services.common.moved_calls import move, moved_error


async def test_moving_a_call_twice_leaves_its_cleanup_alone() -> None:
    cleaning, clean = asyncio.Event(), asyncio.Event()

    async def call() -> Unavailable | None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cleaning.set()
            await clean.wait()
            return moved_error()
        return None

    task = asyncio.create_task(call())
    await asyncio.sleep(0)
    move(task)
    await cleaning.wait()
    move(task)
    clean.set()
    error = await task
    assert error is not None
    assert error.code == MOVED
