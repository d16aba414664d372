"""When a response's audio is sent: at most a lead ahead of a client that plays at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from services.gateway.turn.playback import PlaybackClock

CLOSE_LEAD_S = 0.1
"""What keeps a client from running dry, and no more."""


class Pacing:
    def __init__(self, lead_s: float) -> None:
        self._lead_s = lead_s
        self._goes_ahead = asyncio.Event()
        self._goes_ahead.set()

    def keep_close(self, *, is_close: bool) -> None:
        """Send no more than a client needs that plays at once, for its user may interrupt; or go ahead again."""
        if is_close:
            self._goes_ahead.clear()
        else:
            self._goes_ahead.set()

    async def wait(self, clock: PlaybackClock) -> float:
        """Return when the next packet may be sent, with the time at which it was due, of the monotonic clock."""
        due_s = time.monotonic()
        while (early_s := clock.ahead_s(now_s := time.monotonic()) - self._lead_now_s()) > 0:
            due_s = now_s + early_s
            if self._goes_ahead.is_set():
                await asyncio.sleep(early_s)
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(early_s):
                        await self._goes_ahead.wait()
        return min(due_s, time.monotonic())  # what was kept close may go ahead at once

    def _lead_now_s(self) -> float:
        return self._lead_s if self._goes_ahead.is_set() else min(self._lead_s, CLOSE_LEAD_S)
