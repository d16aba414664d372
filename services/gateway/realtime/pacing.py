"""When a response's audio is sent: at most a lead ahead of a client that plays at once, and a piece."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

from services.gateway.turn.events import Speech
from services.gateway.turn.playback import PlaybackClock

CLOSE_LEAD_S = 0.1
"""What keeps a client from running dry, and no more."""

PIECE_S = 0.16
"""Two frames of the codec. What is made faster than it is sent comes in packets of seconds, and would be ahead by as
much."""


def pieces_of(packet: Speech, sample_rate: int) -> Iterator[Speech]:
    """Cut a packet into pieces of PIECE_S. The last one has its frames: they are paid for when all of it is sent."""
    size = 2 * round(PIECE_S * sample_rate)
    last = max(len(packet.pcm) - 1, 0) // size * size
    for start in range(0, last, size):
        yield replace(
            packet, codes=(), pcm=packet.pcm[start : start + size], first_sample=packet.first_sample + start // 2
        )
    yield replace(packet, pcm=packet.pcm[last:], first_sample=packet.first_sample + last // 2)


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
