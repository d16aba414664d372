"""How far audio leaves ahead, on a clock that a test would have to wait for for hours."""

from __future__ import annotations

import asyncio
import time

from services.gateway.realtime.pacing import Pacing
from services.gateway.turn.playback import PlaybackClock

HZ = 24_000
HOUR_S = 3600


async def is_waiting(task: asyncio.Task[float]) -> bool:
    for _ in range(5):
        await asyncio.sleep(0)
    return not task.done()


def played_for(hours: int) -> PlaybackClock:
    """Return the clock of a client that has so much to play yet."""
    clock = PlaybackClock(HZ)
    clock.deliver(hours * HOUR_S * HZ, time.monotonic())
    return clock


async def test_what_may_be_an_interruption_holds_audio_back_until_it_is_over() -> None:
    pacing, clock = Pacing(lead_s=3 * HOUR_S), played_for(hours=2)
    await pacing.wait(clock)
    pacing.keep_close(is_close=True)
    waiting = asyncio.create_task(pacing.wait(clock))
    assert await is_waiting(waiting)
    pacing.keep_close(is_close=False)
    assert await waiting <= time.monotonic()


async def test_a_client_that_has_nothing_to_play_gets_audio_at_once() -> None:
    pacing = Pacing(lead_s=HOUR_S)
    pacing.keep_close(is_close=True)
    await pacing.wait(PlaybackClock(HZ))


async def test_audio_leaves_no_further_ahead_than_the_lead() -> None:
    waiting = asyncio.create_task(Pacing(lead_s=HOUR_S).wait(played_for(hours=2)))
    assert await is_waiting(waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
