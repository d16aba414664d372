"""OpenAI's own realtime client, and a story whose speech lasts."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import openai

from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import Stages
from tests.gateway.scripted.story import Story

FRAME_MS = 100
PCM = b"".join(n.to_bytes(2, "little", signed=True) for n in range(4800))
"""200 ms."""


@dataclass(frozen=True, slots=True)
class LongStory(Story):
    """Each frame of speech lasts 100 ms."""

    def _samples(self, frame: int) -> bytes:
        return frame.to_bytes(2, "little") * (24 * FRAME_MS)


@dataclass
class Client:
    """A connection, and the events that came."""

    connection: Any
    events: list[Any] = field(default_factory=list[Any])

    @property
    def types(self) -> list[str]:
        return [event.type for event in self.events]

    async def send(self, kind: str, **fields: Any) -> None:
        await self.connection.send({"type": kind, **fields})

    async def next(self) -> Any:
        event = await self.connection.recv()
        assert event.event_id
        self.events.append(event)
        return event

    async def until(self, kind: str) -> Any:
        """Return the next event of this type."""
        while (event := await self.next()).type != kind:
            pass
        return event

    async def ask(self, kind: str, answer: str, **fields: Any) -> Any:
        await self.send(kind, **fields)
        return await self.until(answer)

    async def append(self, pcm: bytes, chunk_bytes: int = 48 * 100) -> None:
        """Send samples in events, 100 ms each unless `chunk_bytes` says otherwise."""
        for at in range(0, len(pcm), chunk_bytes):
            audio = base64.b64encode(pcm[at : at + chunk_bytes]).decode()
            await self.send("input_audio_buffer.append", audio=audio)

    async def settled(self) -> None:
        """Return once all that was sent is done."""
        item = "item_that_is_not_there"
        await self.send("conversation.item.retrieve", item_id=item, event_id=item)
        while (event := await self.next()).type != "error" or event.error.event_id != item:
            assert event.type != "error", event

    async def say(self, pcm: bytes = PCM) -> Any:
        """Push to talk: append the audio in two events and commit it. Return the item."""
        for half in (pcm[: len(pcm) // 4 * 2], pcm[len(pcm) // 4 * 2 :]):
            await self.send("input_audio_buffer.append", audio=base64.b64encode(half).decode())
        return (await self.ask("input_audio_buffer.commit", "conversation.item.done")).item

    async def write(self, text: str, **fields: Any) -> Any:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        return (await self.ask("conversation.item.create", "conversation.item.done", item=item, **fields)).item

    async def error(self, kind: str, **fields: Any) -> Any:
        """Send an event that is wrong, and return what is said about it."""
        error = (await self.ask(kind, "error", event_id="mine", **fields)).error
        assert error.event_id == "mine"
        assert error.message
        return error

    def audio(self) -> bytes:
        deltas = [event.delta for event in self.events if event.type == "response.output_audio.delta"]
        return b"".join(map(base64.b64decode, deltas))

    def transcript(self) -> str:
        return "".join(e.delta for e in self.events if e.type == "response.output_audio_transcript.delta")


@asynccontextmanager
async def talking(
    stages: Stages, turn_detection: dict[str, Any] | None = None, key: str = API_KEY, **session: Any
) -> AsyncGenerator[Client]:
    """Connect with OpenAI's client, and set up the session. Without `turn_detection` its turns are manual."""
    async with (
        openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=key) as made,
        made.realtime.connect(model=INSTRUCT.name) as connection,
    ):
        client = Client(connection)
        await client.until("session.created")
        given = {"type": "realtime", "audio": {"input": {"turn_detection": turn_detection}}, **session}
        await client.ask("session.update", "session.updated", session=given)
        yield client
