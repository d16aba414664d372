"""When a response's audio is sent: at most a lead ahead of a client that plays at once, and a piece; nothing while it
is open whether a sound interrupts it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from enum import Enum

from services.gateway.turn.events import Speech
from services.gateway.turn.playback import PlaybackClock

CLOSE_LEAD_S = 0.1
"""What keeps a client from running dry, and no more."""

MOST_HELD_S = 2.0
"""Then audio goes on, whatever is open: a client that sends no more audio leaves it so."""

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


class Lead(Enum):
    """How far an answer's audio may be ahead of a client that plays at once."""

    FULL = "full"
    CLOSE = "close"
    """CLOSE_LEAD_S: there is a sound."""
    NONE = "none"
    """Nothing is sent: the sound may be an interruption."""


class Pacing:
    def __init__(self, lead_s: float) -> None:
        self._lead_s = lead_s
        self._lead = Lead.FULL
        # Set when the lead changes; others wait for the next change.
        self._changed = asyncio.Event()
        self._held_until_s = 0.0
        self.was_held = False
        """Whether the last packet had to wait for what a sound is."""

    def keep(self, lead: Lead) -> None:
        if lead is Lead.NONE and self._lead is not Lead.NONE:
            self._held_until_s = time.monotonic() + MOST_HELD_S
        self._lead = lead
        self._changed.set()
        self._changed = asyncio.Event()

    async def wait(self, clock: PlaybackClock) -> float:
        """Return when the next packet may be sent, with the time at which it was due, of the monotonic clock."""
        due_s, self.was_held = time.monotonic(), False
        while (early_s := self._early_s(clock, now_s := time.monotonic())) > 0:
            due_s = now_s + early_s
            if self._lead is Lead.FULL:
                await asyncio.sleep(early_s)
                continue
            self.was_held = self.was_held or self._lead is Lead.NONE
            with suppress(TimeoutError):
                async with asyncio.timeout(early_s):
                    await self._changed.wait()
        return min(due_s, time.monotonic())  # what was kept back may go ahead at once

    def _early_s(self, clock: PlaybackClock, now_s: float) -> float:
        """Return in how many seconds the next packet may be sent, as things are."""
        if self._lead is Lead.NONE and now_s < self._held_until_s:
            return self._held_until_s - now_s
        lead_s = min(self._lead_s, CLOSE_LEAD_S) if self._lead is Lead.CLOSE else self._lead_s
        return clock.ahead_s(now_s) - lead_s
