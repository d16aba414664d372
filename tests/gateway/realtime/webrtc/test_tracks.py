"""The two tracks of a call: speech in real time, and a microphone without gaps."""

from __future__ import annotations

import asyncio
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiortc")

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from services.gateway.realtime.conversation import SAMPLE_RATE, Item, SpeechContent
from services.gateway.realtime.response import Response, ResponseOptions
from services.gateway.realtime.spoken import Spoken
from services.gateway.realtime.webrtc.microphone import RATE, LatestQueue, samples_of
from services.gateway.realtime.webrtc.speaker import Speaker

FRAME = SAMPLE_RATE // 50


def speech(of: int) -> tuple[Response, Item, bytes]:
    response = Response(ResponseOptions(), None)
    item = Item("assistant", [SpeechContent(Spoken(SAMPLE_RATE))])
    return response, item, of.to_bytes(2, "little") * (FRAME * 3 // 2)


def values(frame: AudioFrame) -> list[int]:
    return sorted(set(frame.to_ndarray()[0].tolist()))


def told(speaker: Speaker) -> list[tuple[str, str]]:
    return [speaker.told.get_nowait() for _ in range(speaker.told.qsize())]


async def test_responses_are_spoken_one_after_another_and_silence_is_between() -> None:
    speaker = Speaker()
    (one, item, pcm), (two, other, more) = speech(1), speech(2)
    await speaker.play(one, item, pcm)
    await speaker.play(two, other, more)
    assert [values(await speaker.recv()) for _ in range(3)] == [[1], [0, 1], [0]]
    speaker.end(one)
    assert [values(await speaker.recv()) for _ in range(3)] == [[2], [0, 2], [0]]
    speaker.end(two)
    frame = await speaker.recv()
    assert (values(frame), frame.pts, frame.sample_rate) == ([0], 6 * FRAME, SAMPLE_RATE)
    assert told(speaker) == [(what, response.id) for response in (one, two) for what in ("started", "stopped")]


async def test_a_silent_call_sends_nothing_until_there_is_speech() -> None:
    speaker = Speaker()
    first = [await speaker.recv() for _ in range(25)]
    waiting = asyncio.create_task(speaker.recv())
    await asyncio.sleep(0)
    response, item, pcm = speech(1)
    await speaker.play(response, item, pcm)
    frames = [await waiting, *[await speaker.recv() for _ in range(3)]]
    assert [values(frame) for frame in frames] == [[0], [0], [1], [0, 1]]
    starts = [frame.pts or 0 for frame in (*first, *frames)]
    assert starts == sorted(set(starts))
    speaker.stop()


async def test_speech_that_ends_long_after_its_last_sample_is_told_to_have_stopped() -> None:
    speaker = Speaker()
    response, item, pcm = speech(1)
    await speaker.play(response, item, pcm)
    for _ in range(2 + 25):
        await speaker.recv()
    waiting = asyncio.create_task(speaker.recv())
    await asyncio.sleep(0)
    assert told(speaker) == [("started", response.id)]
    speaker.end(response)
    assert values(await waiting) == [0]
    assert told(speaker) == [("stopped", response.id)]
    speaker.stop()


async def test_what_is_cleared_is_not_spoken_and_says_what_was() -> None:
    speaker = Speaker()
    (one, item, pcm), (two, other, more) = speech(1), speech(2)
    await speaker.play(one, item, pcm)
    await speaker.play(two, other, more)
    await speaker.recv()
    cut = speaker.clear()
    assert [(each.item, each.sent_ms) for each in cut] == [(item, 20), (other, 0)]
    assert told(speaker) == [("started", one.id), ("cleared", one.id)]
    await speaker.play(one, item, pcm)  # it is still made
    assert values(await speaker.recv()) == [0]
    speaker.end(one)


async def test_what_is_held_is_silent_and_goes_on_where_it_was() -> None:
    speaker = Speaker()
    response, item, pcm = speech(1)
    await speaker.play(response, item, pcm)
    assert values(await speaker.recv()) == [1]
    speaker.hold(is_held=True)
    assert [values(await speaker.recv()) for _ in range(3)] == [[0]] * 3
    speaker.hold(is_held=False)
    assert values(await speaker.recv()) == [0, 1]
    (cut,) = speaker.clear()
    assert cut.sent_ms == 30


async def test_who_speaks_too_much_waits() -> None:
    speaker = Speaker()
    response, item, _ = speech(1)
    await speaker.play(response, item, bytes(SAMPLE_RATE * 2 * 21))
    waiting = asyncio.create_task(speaker.play(response, item, b"\1\0"))
    await asyncio.sleep(0)
    assert not waiting.done()
    speaker.clear()
    await waiting
    speaker.stop()


class Frames(MediaStreamTrack):
    """What a peer's track gives: frames of these starts, then nothing until `ends`."""

    kind = "audio"

    def __init__(self, *starts: int, rate: int = RATE) -> None:
        super().__init__()
        self._starts = list(starts)
        self._rate = rate
        self.ends = asyncio.Event()

    async def recv(self) -> AudioFrame:
        if not self._starts:
            await self.ends.wait()
            raise MediaStreamError
        samples = np.tile(np.array([100, 300], np.int16), 960).reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="stereo")
        frame.sample_rate, frame.time_base, frame.pts = self._rate, Fraction(1, self._rate), self._starts.pop(0)
        return frame


async def test_lost_packets_and_a_muted_microphone_are_silence() -> None:
    track = Frames(0, 960, 960 * 5)
    heard = samples_of(track)
    pieces = [await anext(heard) for _ in range(5)]
    loud = (200).to_bytes(2, "little") * 960
    assert pieces == [loud, loud, bytes(2 * 960 * 3), loud, bytes(RATE)]
    track.ends.set()
    rest = [piece async for piece in heard]
    assert not any(map(any, rest))


async def test_who_never_spoke_is_not_silent() -> None:
    track = Frames()
    heard: Any = samples_of(track)
    first = asyncio.ensure_future(anext(heard, None))
    track.ends.set()
    assert await first is None


async def test_the_newest_frames_are_kept() -> None:
    queue: LatestQueue[int] = LatestQueue(2)
    for number in range(5):
        await queue.put(number)
    assert [queue.get_nowait() for _ in range(2)] == [3, 4]
