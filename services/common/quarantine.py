"""Tells the request that ends engines from those that merely ran beside it.

All requests in an engine that fails are suspects, and go on elsewhere. If they met again in one engine, and it failed,
they would look alike. So an engine takes suspects one at a time: each one's first output clears it, and the one that
ends engines is alone when it ends its second.
"""

from __future__ import annotations

import asyncio
from contextlib import ExitStack


class Quarantine:
    """Lets suspects into one engine, one at a time: requests whose RequestContext.failed_engines is not 0.

    A suspect may have no work for an engine yet, as where it waits for text: after `longest_s` the next one enters.
    That must be longer than the time in which a hung engine is found.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._lock = asyncio.Lock()

    async def enter(self, failed_engines: int) -> ExitStack:
        """Wait until the request may enter; others than suspects need not. Close what is returned at the request's
        first output, and at its end."""
        inside = ExitStack()
        if failed_engines:
            await self._lock.acquire()
            inside.callback(self._lock.release)
            inside.callback(asyncio.get_running_loop().call_later(self._longest_s, inside.close).cancel)
        return inside
