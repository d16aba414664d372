"""Finds an engine that hangs: it lives, and does not get on with its step."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from services.common.queues import SlotKeeper
from services.common.server import ServiceHost

_EVERY_S = 1.0


async def fail_when_hung(
    host: ServiceHost,
    keeper: SlotKeeper,
    answer: Callable[[], Awaitable[object]],
    limit_s: float,
    observe: Callable[[float], None],
) -> None:
    """End the worker once its engine hangs (see `until_hung`): its turns go on elsewhere, and it is started again."""
    await until_hung(answer, limit_s, observe)
    keeper.drain()
    host.fail("the engine hangs")


async def until_hung(answer: Callable[[], Awaitable[object]], limit_s: float, observe: Callable[[float], None]) -> None:
    """Ask the engine again and again, and return once an answer takes `limit_s` longer than the longest one so far.

    An engine answers between two steps, so an answer takes as long as the step under way. `observe` gets the age of the
    question that is open, seconds. Raise what `answer` raises.
    """
    longest_s = 0.0
    while True:
        age_s = 0.0
        asking = asyncio.ensure_future(answer())
        try:
            while not asking.done():
                began_s = time.monotonic()
                await asyncio.wait((asking,), timeout=_EVERY_S)
                # If this process stood still itself, as on a suspended machine, the engine may have, too.
                age_s += min(time.monotonic() - began_s, 2 * _EVERY_S)
                observe(age_s)
                if not asking.done() and age_s > limit_s + longest_s:
                    return
            await asking
        finally:
            asking.cancel()
        longest_s = max(longest_s, age_s)
        await asyncio.sleep(_EVERY_S)
