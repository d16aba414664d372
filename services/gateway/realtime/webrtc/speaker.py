"""A call's track to the client: the speech of responses, one after another, in real time."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Literal

import numpy as np
from aiortc import MediaStreamTrack
from av import AudioFrame

from services.gateway.realtime.conversation import SAMPLE_RATE, Item
from services.gateway.realtime.pacing import MOST_HELD_S
from services.gateway.realtime.response import Response

_FRAME_MS = 20
_FRAME_BYTES = SAMPLE_RATE * _FRAME_MS // 1000 * 2
_SILENCE = bytes(_FRAME_BYTES)
# Silence that is sent at first and after speech. Then nothing is: a call that is silent costs no encoding.
_SILENT_FRAMES = 25
# Then silence goes before speech: the encoder stamps a frame or two behind a gap as if there were none.
_LEAD_IN_FRAMES = 2
# How late a frame may be before the clock begins anew: what was missed is not caught up on.
_LATE_S = 0.2
# Speech that waits, of all responses; who speaks more waits with it.
_MOST_WAITING_BYTES = 20 * SAMPLE_RATE * 2
_MOST_TOLD = 256

What = Literal["started", "stopped", "cleared"]


@dataclass(slots=True)
class _Speech:
    """The speech of a response that was not sent yet."""

    response: Response
    item: Item
    chunks: deque[bytes] = field(default_factory=deque[bytes])
    sent_bytes: int = 0
    is_whole: bool = False


@dataclass(frozen=True, slots=True)
class CutSpeech:
    """An item of which no more than `sent_ms` was sent."""

    item: Item
    sent_ms: int


class Speaker(MediaStreamTrack):
    """`told` has what happens to a response's speech, with its id: it starts, it stops at its end, it is cleared."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self.told: asyncio.Queue[tuple[What, str]] = asyncio.Queue(_MOST_TOLD)
        self._speeches: deque[_Speech] = deque()
        # Ids of responses that were cleared before they had said all.
        self._cleared: set[str] = set()
        self._waiting_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._has_speech = asyncio.Event()
        # Frames of silence since the last speech.
        self._silent = 0
        # Frames of silence to send before the next speech.
        self._lead_in = 0
        # Frames until now, also those that were not sent.
        self._frames = 0
        # When the first frame was due.
        self._began_s = 0.0
        self._held_until_s = 0.0

    async def wait_silent(self, timeout_s: float) -> None:
        """Return once all that was said so far is sent, or after so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self._waiting_bytes and self.readyState == "live":  # noqa: ASYNC110  # a frame goes as often
                    await asyncio.sleep(_FRAME_MS / 1000)

    async def play(self, response: Response, item: Item, pcm: bytes) -> None:
        """Add speech: SAMPLE_RATE, mono, 16 bits signed. Wait while much of it waits already. Of a response that was
        cleared nothing is taken."""
        while self._waiting_bytes >= _MOST_WAITING_BYTES and self.readyState == "live":
            self._has_room.clear()
            await self._has_room.wait()
        if response.id in self._cleared:
            return
        speech = next((each for each in self._speeches if each.response is response), None)
        if speech is None:
            speech = _Speech(response, item)
            self._speeches.append(speech)
        speech.chunks.append(pcm)
        self._waiting_bytes += len(pcm)
        self._has_speech.set()

    def hold(self, *, is_held: bool) -> float:
        """Be silent, MOST_HELD_S at most, or go on. Return until when it is silent, of the monotonic clock; 0 = it goes
        on."""
        self._held_until_s = time.monotonic() + MOST_HELD_S if is_held else 0.0
        return self._held_until_s

    def end(self, response: Response) -> None:
        """Note that a response has no more speech."""
        self._cleared.discard(response.id)
        for speech in self._speeches:
            if speech.response is response:
                speech.is_whole = True
                self._has_speech.set()  # all of it may have been sent long ago: the next frame tells that it stopped

    def clear(self) -> list[CutSpeech]:
        """Send nothing of what waits. Return whose speech that was."""
        cut, self._speeches = list(self._speeches), deque()
        self._waiting_bytes = 0
        self._has_room.set()
        for speech in cut:
            if not speech.is_whole:
                self._cleared.add(speech.response.id)
            if speech.sent_bytes:
                self._tell("cleared", speech.response)
        return [CutSpeech(speech.item, speech.sent_bytes * 1000 // (SAMPLE_RATE * 2)) for speech in cut]

    def stop(self) -> None:
        super().stop()
        self._has_room.set()

    @property
    def _has_work(self) -> bool:
        """Whether there is speech to send, or a speech's end to tell."""
        return bool(self._waiting_bytes or (self._speeches and self._speeches[0].is_whole))

    async def recv(self) -> AudioFrame:
        """Return the next 20 ms when it is their time, or once there is speech again."""
        if self._silent >= _SILENT_FRAMES and not self._has_work:
            self._has_speech.clear()
            await self._has_speech.wait()
            self._lead_in = _LEAD_IN_FRAMES if self._waiting_bytes else 0
            self._frames = max(self._frames, int((time.monotonic() - self._began_s) * 1000 / _FRAME_MS))
        await self._wait_for_time()
        samples = np.frombuffer(self._next_frame(), "<i2").reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.time_base = SAMPLE_RATE, Fraction(1, SAMPLE_RATE)
        frame.pts = self._frames * _FRAME_BYTES // 2
        self._frames += 1
        return frame

    async def _wait_for_time(self) -> None:
        now_s = time.monotonic()
        due_s = self._began_s + self._frames * _FRAME_MS / 1000
        if not self._frames or now_s - due_s > _LATE_S:
            self._began_s = now_s - self._frames * _FRAME_MS / 1000
        elif due_s > now_s:
            await asyncio.sleep(due_s - now_s)

    def _next_frame(self) -> bytes:
        if self._lead_in:
            self._lead_in -= 1
            return _SILENCE
        if self._speeches and time.monotonic() < self._held_until_s:
            return _SILENCE
        while self._speeches:
            speech = self._speeches[0]
            if taken := self._take(speech):
                self._silent = 0
                return taken.ljust(_FRAME_BYTES, b"\0")
            if not speech.is_whole:
                break  # more of it comes
            self._speeches.popleft()
            if speech.sent_bytes:
                self._tell("stopped", speech.response)
        self._silent += 1
        return _SILENCE

    def _take(self, speech: _Speech) -> bytes:
        """Take a frame, or what there is of it."""
        taken = bytearray()
        while speech.chunks and len(taken) < _FRAME_BYTES:
            chunk, room = speech.chunks.popleft(), _FRAME_BYTES - len(taken)
            taken += chunk[:room]
            if len(chunk) > room:
                speech.chunks.appendleft(chunk[room:])
        if taken and not speech.sent_bytes:
            self._tell("started", speech.response)
        speech.sent_bytes += len(taken)
        self._waiting_bytes -= len(taken)
        if self._waiting_bytes < _MOST_WAITING_BYTES:
            self._has_room.set()
        return bytes(taken)

    def _tell(self, what: What, response: Response) -> None:
        if not self.told.full():
            self.told.put_nowait((what, response.id))
