"""DashScope's own realtime client, and a socket without one."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from dashscope.audio.qwen_omni import MultiModality, OmniRealtimeCallback, OmniRealtimeConversation
from PIL import Image
from websockets.asyncio.client import ClientConnection, connect

from services.gateway.realtime.audio.formats import AudioFormat, AudioWriter
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY
from tests.gateway.scripted.stages import Stages

PATH = "/api-ws/v1/realtime"
MODEL = "qwen3-omni-flash-realtime"
SPOKEN = [MultiModality.AUDIO, MultiModality.TEXT]
_EVENT_BYTES = 3200
"""100 ms at 16 kHz."""


def url_of(stages: Stages, query: str = "") -> str:
    return stages.gateway.url.replace("http", "ws") + PATH + query


def at_16_khz(pcm: bytes) -> bytes:
    """Return samples of 24 kHz as DashScope's clients record them."""
    return bytes(AudioWriter(AudioFormat.PCM_16K).write(pcm))


def jpeg(size: tuple[int, int] = (64, 48), color: str = "red", **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "JPEG", **options)
    return file.getvalue()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Talk(OmniRealtimeCallback):
    """A conversation of the SDK, and the events that came to its thread."""

    def __init__(self, stages: Stages) -> None:
        self.events: list[dict[str, Any]] = []
        self.closed: tuple[int, str] | None = None
        self.sdk = OmniRealtimeConversation(MODEL, self, url=url_of(stages), api_key=API_KEY, workspace="ours")

    def on_event(self, message: Any) -> None:
        self.events.append(message)

    def on_close(self, close_status_code: Any, close_msg: Any) -> None:
        self.closed = close_status_code, close_msg

    def types(self, start: int = 0) -> list[str]:
        """Return the types of the events, but for deltas."""
        return [event["type"] for event in self.events[start:] if not event["type"].endswith(".delta")]

    async def until(self, kind: str, start: int = 0, times: int = 1) -> dict[str, Any]:
        """Return an event of this type, of those from `start` on."""

        def came() -> list[dict[str, Any]]:
            return [event for event in self.events[start:] if event["type"] == kind]

        await wait_until(lambda: len(came()) >= times)
        return came()[times - 1]

    async def append(self, pcm: bytes) -> None:
        """Send samples of 24 kHz, as a microphone of 16 kHz would have recorded them."""
        recorded = at_16_khz(pcm)
        for at in range(0, len(recorded), _EVENT_BYTES):
            await asyncio.to_thread(self.sdk.append_audio, encoded(recorded[at : at + _EVENT_BYTES]))

    def audio(self, start: int = 0) -> bytes:
        deltas = [event["delta"] for event in self.events[start:] if event["type"] == "response.audio.delta"]
        return b"".join(map(base64.b64decode, deltas))


@asynccontextmanager
async def talking(stages: Stages, **session: Any) -> AsyncGenerator[Talk]:
    """Connect with the SDK, and set up the session as its samples do. At the end the session is finished: it closes at
    once."""
    talk = Talk(stages)
    try:
        await asyncio.to_thread(talk.sdk.connect)
    except TimeoutError:  # it waits for 5 s, however busy the machine is
        if not talk.sdk.thread.is_alive():
            raise
    try:
        await talk.until("session.created")
        connection: Any = talk.sdk.ws
        socket = connection.sock
        await asyncio.to_thread(talk.sdk.update_session, SPOKEN, **session)
        await talk.until("session.updated")
        yield talk
        await asyncio.to_thread(talk.sdk.end_session, int(HANGS_AFTER_S))
        await wait_until(lambda: talk.closed is not None)
    finally:
        await asyncio.to_thread(talk.sdk.close)
    assert talk.closed == (1000, "close_requested")
    await asyncio.to_thread(talk.sdk.thread.join, HANGS_AFTER_S)
    socket.shutdown()  # which it leaves to the garbage collector


class Socket:
    """A connection without a client."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.events: list[dict[str, Any]] = []

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send(json.dumps({"type": kind, **fields}))

    async def next(self) -> dict[str, Any]:
        event = json.loads(await self.connection.recv())
        assert event["event_id"]
        self.events.append(event)
        return event

    async def until(self, kind: str) -> dict[str, Any]:
        while (event := await self.next())["type"] != kind:
            assert event["type"] != "error", event
        return event

    async def ask(self, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
        await self.send(kind, **fields)
        return await self.until(answer)

    async def update(self, **session: Any) -> dict[str, Any]:
        return (await self.ask("session.update", "session.updated", session=session))["session"]

    async def append(self, pcm: bytes) -> None:
        """As Talk's, in one event."""
        await self.send("input_audio_buffer.append", audio=encoded(at_16_khz(pcm)))

    async def error(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Send an event that is wrong, and return what is said about it."""
        await self.send(kind, event_id="mine", **fields)
        while (event := await self.next())["type"] != "error":
            pass
        assert event["error"]["event_id"] == "mine"
        return event["error"]

    async def refused(self, **session: Any) -> dict[str, Any]:
        return await self.error("session.update", session=session)


@asynccontextmanager
async def opened(stages: Stages, query: str = "", key: str = API_KEY, **session: Any) -> AsyncGenerator[Socket]:
    """Connect with manual turns, and what else `session` says."""
    headers = {"authorization": f"bearer {key}", "x-dashscope-workspace": "ours"}
    async with connect(url_of(stages, query), additional_headers=headers, compression=None) as connection:
        socket = Socket(connection)
        await socket.until("session.created")
        await socket.update(**{"turn_detection": None, **session})
        yield socket
