"""Finds a worker that hangs: an engine that lives and does not get on with its step, or a whole process.

An engine is asked again and again, and answers between two steps: so an answer takes as long as the step under way. A
thread of its own asks the event loop in the same way, since nothing else runs where that stands still.
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Protocol

from services.common.queues import SlotKeeper
from services.common.server import ServiceHost

_EVERY_S = 1.0
# How long the last words of a process may take: its log may be what hangs.
_LAST_WORDS_S = 2.0

logger = logging.getLogger(__name__)


class WatchedEngine(Protocol):
    @property
    def longest_step_s(self) -> float:
        """How long a step with the work at hand may take, seconds; 0 = no longer than those before."""
        ...

    async def answer(self) -> None:
        """Return once the engine has come by, between two steps."""
        ...

    def abandon(self) -> None:
        """End all calls with ENGINE_FAILED, though the engine hangs."""
        ...


async def fail_when_hung(
    host: ServiceHost,
    keeper: SlotKeeper,
    engine: WatchedEngine,
    limit_s: float,
    observe: Callable[[float], None],
) -> None:
    """End the worker once its engine or its event loop hangs: its turns go on elsewhere, and it is started again.

    The engine hangs when a step takes `limit_s` longer than the longest one so far, and than its work may need. The
    event loop hangs when it stands still for `limit_s`.
    """
    with exit_when_loop_hangs(limit_s):
        reason = await until_hung(engine, limit_s, observe)
    keeper.drain()
    engine.abandon()
    host.fail(reason)


async def until_hung(engine: WatchedEngine, limit_s: float, observe: Callable[[float], None]) -> str:
    """Return the reason once the engine hangs. `observe` gets the age of the open question, seconds.

    Raise what `engine.answer` raises.
    """
    longest_s = 0.0
    while True:
        age_s = needed_s = 0.0
        asking = asyncio.ensure_future(engine.answer())
        try:
            while not asking.done():
                began_s = time.monotonic()
                await asyncio.wait((asking,), timeout=_EVERY_S)
                age_s += _no_pause(time.monotonic() - began_s)
                needed_s = max(needed_s, engine.longest_step_s)
                observe(age_s)
                if not asking.done() and age_s > limit_s + max(longest_s, needed_s):
                    return (
                        f"the engine hangs: its step takes {age_s:.1f} s; the longest one before took "
                        f"{longest_s:.1f} s, and its work may need {needed_s:.1f} s"
                    )
            await asking
        finally:
            asking.cancel()
        longest_s = max(longest_s, age_s)
        await asyncio.sleep(_EVERY_S)


@contextmanager
def exit_when_loop_hangs(limit_s: float) -> Generator[None]:
    """Exit the process with status 1, and a traceback of each thread, where the running event loop stands still for
    `limit_s` seconds inside the block. Its callers see their connections end."""
    loop, ended = asyncio.get_running_loop(), threading.Event()

    def watch() -> None:
        while not ended.wait(_EVERY_S):
            came_by, age_s = threading.Event(), 0.0
            loop.call_soon_threadsafe(came_by.set)
            while not came_by.is_set() and not ended.is_set():
                began_s = time.monotonic()
                came_by.wait(_EVERY_S)
                age_s += _no_pause(time.monotonic() - began_s)
                if not came_by.is_set() and age_s > limit_s:
                    _exit(f"the event loop has stood still for {age_s:.1f} s")

    thread = threading.Thread(target=watch, name="loop-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _exit(reason: str) -> None:
    last_words = threading.Timer(_LAST_WORDS_S, os._exit, (1,))
    last_words.daemon = True
    last_words.start()
    logger.critical("the process ends: %s", reason)
    faulthandler.dump_traceback()
    os._exit(1)


def _no_pause(elapsed_s: float) -> float:
    """Return how much of `elapsed_s` this process was awake, at most: on a suspended machine, all stands still."""
    return min(elapsed_s, 2 * _EVERY_S)
