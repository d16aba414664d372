"""One timer of the event loop for a whole stream, however many events it has."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class IdleTimer:
    """Calls `idle` each time that `every_s` have passed without a `touch`. Close it at the stream's end."""

    def __init__(self, every_s: float, idle: Callable[[], None]) -> None:
        self._every_s = every_s
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._touched_s = self._loop.time()
        self._timer = self._loop.call_at(self._touched_s + every_s, self._fire)

    def touch(self) -> None:
        self._touched_s = self._loop.time()

    def close(self) -> None:
        self._timer.cancel()

    def _fire(self) -> None:
        if self._loop.time() >= self._touched_s + self._every_s:
            self._idle()
            self.touch()
        self._timer = self._loop.call_at(self._touched_s + self._every_s, self._fire)
