"""How far audio leaves ahead, on a clock that a test would have to wait for for hours."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.gateway.realtime.pacing import Lead, Pacing, pieces_of
from services.gateway.turn.events import Speech
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
    pacing.keep(Lead.CLOSE)
    waiting = asyncio.create_task(pacing.wait(clock))
    assert await is_waiting(waiting)
    pacing.keep(Lead.FULL)
    assert await waiting <= time.monotonic()
    assert not pacing.was_held


async def test_while_it_is_open_what_a_sound_is_nothing_is_sent() -> None:
    pacing = Pacing(lead_s=HOUR_S)
    pacing.keep(Lead.NONE)
    waiting = asyncio.create_task(pacing.wait(PlaybackClock(HZ)))
    assert await is_waiting(waiting)
    pacing.keep(Lead.CLOSE)  # another sound has begun
    assert await waiting <= time.monotonic()
    assert pacing.was_held


async def test_audio_is_not_held_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends no more audio leaves it open what its last sound was."""
    monkeypatch.setattr("services.gateway.realtime.pacing.MOST_HELD_S", 0.01)
    pacing = Pacing(lead_s=HOUR_S)
    pacing.keep(Lead.NONE)
    await pacing.wait(PlaybackClock(HZ))
    assert pacing.was_held


async def test_audio_that_was_held_too_long_is_paced_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.gateway.realtime.pacing.MOST_HELD_S", 0.0)
    pacing = Pacing(lead_s=HOUR_S)
    pacing.keep(Lead.NONE)
    waiting = asyncio.create_task(pacing.wait(played_for(hours=2)))
    assert await is_waiting(waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


async def test_a_client_that_has_nothing_to_play_gets_audio_at_once() -> None:
    pacing = Pacing(lead_s=HOUR_S)
    pacing.keep(Lead.CLOSE)
    await pacing.wait(PlaybackClock(HZ))


async def test_audio_leaves_no_further_ahead_than_the_lead() -> None:
    waiting = asyncio.create_task(Pacing(lead_s=HOUR_S).wait(played_for(hours=2)))
    assert await is_waiting(waiting)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


@pytest.mark.parametrize("samples", [1, 3839, 3840, 3841, 7680, 60_000])
def test_a_packet_of_seconds_is_sent_in_pieces(samples: int) -> None:
    pcm = bytes(number % 251 for number in range(2 * samples))
    packet = Speech(first_frame=3, codes=(1, 2), first_sample=100, pcm=pcm, text_tokens=7)
    pieces = list(pieces_of(packet, 24_000))
    assert b"".join(piece.pcm for piece in pieces) == pcm
    assert {len(piece.pcm) // 2 for piece in pieces[:-1]} <= {3840}
    assert 0 < len(pieces[-1].pcm) // 2 <= 3840
    assert [piece.first_sample for piece in pieces] == [100 + 3840 * index for index in range(len(pieces))]
    assert [piece.codes for piece in pieces] == [()] * (len(pieces) - 1) + [(1, 2)]
