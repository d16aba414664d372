"""A client of calls: aiortc's peer connection, a microphone that says what it is given, and ears."""

from __future__ import annotations

import asyncio
import json
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import httpx
import numpy as np
from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.talking import FRAME_MS, LongStory
from tests.gateway.scripted.stages import Stages

CALLS = "/v1/realtime/calls"
_TONE = np.tile(np.repeat(np.array([8000, -8000], "<i2"), 24), FRAME_MS // 2).tobytes()
FRAME = SAMPLE_RATE // 50
LOUD = 200
"""Of 32,768: what is louder is no silence, after Opus, too."""


class LoudStory(LongStory):
    """Each frame of speech lasts 100 ms, and is a tone."""

    def _samples(self, frame: int) -> bytes:
        return _TONE


class Microphone(MediaStreamTrack):
    """Says what was appended, in real time, and sends nothing else: 24 kHz, mono, 16 bits."""

    kind = "audio"

    def __init__(self) -> None:
        super().__init__()
        self._pcm: deque[bytes] = deque()
        self._speaks = asyncio.Event()
        self._frames = 0
        self._began_s = 0.0

    def say(self, pcm: bytes) -> None:
        frames = [pcm[at : at + FRAME * 2] for at in range(0, len(pcm), FRAME * 2)]
        self._pcm.extend(each.ljust(FRAME * 2, b"\0") for each in frames)
        self._speaks.set()

    async def recv(self) -> AudioFrame:
        if self.readyState != "live":
            raise MediaStreamError
        if not self._pcm:
            self._speaks.clear()
            await self._speaks.wait()
            self._began_s = time.monotonic() - self._frames / 50
        await asyncio.sleep(max(self._began_s + self._frames / 50 - time.monotonic(), 0))
        samples = np.frombuffer(self._pcm.popleft(), "<i2").reshape(1, -1)
        frame = AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate, frame.time_base, frame.pts = SAMPLE_RATE, Fraction(1, SAMPLE_RATE), self._frames * FRAME
        self._frames += 1
        return frame


@dataclass
class Caller:
    """One end of a call. `loud_frames`: those of 20 ms that were no silence; `silent_frames`: those since then."""

    peer: RTCPeerConnection
    microphone: Microphone
    channel: Any
    location: str = ""
    events: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    silent_frames: int = 0
    loud_frames: int = 0
    is_closed: bool = False
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _read: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.channel.on("message", self._on_message)
        self.channel.on("open", self._open.set)
        self.channel.on("close", self._on_close)

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def _on_message(self, text: str) -> None:
        self.events.append(json.loads(text))
        self._arrived.set()

    def _on_close(self) -> None:
        self.is_closed = True

    async def send(self, kind: str, **fields: Any) -> None:
        await self._open.wait()
        self.channel.send(json.dumps({"type": kind, **fields}))

    async def until(self, kind: str) -> dict[str, Any]:
        """Return the next event of this type."""
        while True:
            while self._read < len(self.events):
                event = self.events[self._read]
                self._read += 1
                if event["type"] == kind:
                    return event
            self._arrived.clear()
            await self._arrived.wait()

    async def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        await self.send(kind, **fields)
        return await self.until(answer)

    async def write(self, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.ask("conversation.item.create", "conversation.item.done", item=item)

    async def listen(self, track: MediaStreamTrack) -> None:
        try:
            while isinstance(frame := await track.recv(), AudioFrame):
                if int(np.abs(frame.to_ndarray()).max()) > LOUD:
                    self.loud_frames, self.silent_frames = self.loud_frames + 1, 0
                else:
                    self.silent_frames += 1
        except MediaStreamError:
            pass


def caller(configuration: RTCConfiguration | None = None) -> Caller:
    peer = RTCPeerConnection(configuration or RTCConfiguration(iceServers=[]))
    microphone = Microphone()
    peer.addTrack(microphone)
    return Caller(peer, microphone, peer.createDataChannel("oai-events"))


async def offer_of(peer: RTCPeerConnection) -> str:
    await peer.setLocalDescription(await peer.createOffer())
    return peer.localDescription.sdp


async def post(stages: Stages, sdp: str, key: str = API_KEY, query: str = f"?model={INSTRUCT.name}") -> httpx.Response:
    headers = {"authorization": f"Bearer {key}", "content-type": "application/sdp"}
    return await stages.gateway.client.post(CALLS + query, content=sdp, headers=headers)


@asynccontextmanager
async def calling(
    stages: Stages, turn_detection: dict[str, Any] | None = None, key: str = API_KEY
) -> AsyncGenerator[Caller]:
    """Make a call. Without `turn_detection` its turns are manual."""
    async with dialling(key, stages) as made:
        given = {"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}}
        await made.until("session.created")
        await made.ask("session.update", "session.updated", session=given)
        yield made


@asynccontextmanager
async def dialling(
    key: str,
    stages: Stages,
    query: str = f"?model={INSTRUCT.name}",
    configuration: RTCConfiguration | None = None,
    signalled: Callable[[str], str] = lambda sdp: sdp,
) -> AsyncGenerator[Caller]:
    """Make a call, and leave what comes first to the test. `signalled`: what becomes of offer and answer on their
    way."""
    made = caller(configuration)
    ears: list[asyncio.Task[None]] = []
    made.peer.on("track", lambda track: ears.append(asyncio.create_task(made.listen(track))))
    try:
        answer = await post(stages, signalled(await offer_of(made.peer)), key, query)
        assert answer.status_code == 201, answer.text
        made.location = answer.headers["location"]
        await made.peer.setRemoteDescription(RTCSessionDescription(signalled(answer.text), "answer"))
        yield made
    finally:
        await made.peer.close()
        for task in ears:
            task.cancel()
        await asyncio.gather(*ears, return_exceptions=True)
