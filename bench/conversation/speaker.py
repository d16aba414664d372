"""A client that speaks in real time, whatever it hears, and notes when what came."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import ConnectionClosed

from bench.conversation.line import Event, Line, open_line
from bench.conversation.timeline import Timeline
from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.gateway.conftest import INSTRUCT

CHUNK_MS = 20
CHUNK_SAMPLES = CHUNK_MS * SAMPLE_RATE // 1000


@dataclass(eq=False)
class HeardItem:
    """A turn as the server heard it: from when to when in the timeline, samples, its silence and padding included.
    Times are of time.monotonic()."""

    id: str
    start: int
    started_s: float
    end: int = 0
    stopped_s: float = 0.0
    response: HeardResponse | None = None


@dataclass(eq=False)
class HeardResponse:
    created_s: float
    first_audio_s: float = 0.0
    last_audio_s: float = 0.0
    done_s: float = 0.0
    status: str = ""
    reason: str = ""


@dataclass(eq=False)
class Speaker:
    number: int
    timeline: Timeline
    turn_detection: Mapping[str, Any]
    began_s: float = 0.0
    sent_samples: int = 0
    # When each chunk was sent.
    sent_s: list[float] = field(default_factory=list[float])
    items: list[HeardItem] = field(default_factory=list[HeardItem])
    responses: dict[str, HeardResponse] = field(default_factory=dict[str, HeardResponse])
    error: str = ""

    @property
    def instructions(self) -> str:
        """By which the stages know the session."""
        return f"speaker {self.number}"

    def has_finished(self) -> bool:
        """Whether the speaker has said all that they want to say by now."""
        at = self.sent_samples
        return not any(one.start <= at < one.end for one in self.timeline.utterances)

    def wants_turn(self) -> bool:
        """Whether the last sound that has begun by now is no listener's."""
        begun = [one.kind for one in self.timeline.utterances if one.start <= self.sent_samples]
        return bool(begun) and begun[-1] != "back"

    def said_s(self, sample: int) -> float:
        """Return when a sample was spoken."""
        return self.began_s + sample / SAMPLE_RATE

    def late_s(self) -> list[float]:
        """Return how late each chunk was sent."""
        return [sent_s - self.said_s((number + 1) * CHUNK_SAMPLES) for number, sent_s in enumerate(self.sent_s)]

    async def converse(self, port: int, key: str) -> None:
        try:
            async with open_line(port, key, model=INSTRUCT.name) as line:
                audio = {"input": {"turn_detection": dict(self.turn_detection)}}
                given = {"type": "realtime", "instructions": self.instructions, "audio": audio}
                await line.ask("session.update", "session.updated", session=given)
                listening = asyncio.create_task(self._listen(line), name=f"listen {self.number}")
                try:
                    await self._speak(line)
                finally:
                    listening.cancel()
                    await asyncio.gather(listening, return_exceptions=True)
                if not listening.cancelled():
                    listening.result()
        except Exception as error:  # one conversation that breaks is a figure, and the others go on
            self.error = f"{type(error).__name__}: {error}"

    async def _speak(self, line: Line) -> None:
        """Send each chunk once its last sample is spoken."""
        pcm = self.timeline.pcm
        self.began_s = time.monotonic()
        for number in range(len(pcm) // (2 * CHUNK_SAMPLES)):
            chunk = pcm[2 * number * CHUNK_SAMPLES : 2 * (number + 1) * CHUNK_SAMPLES]
            await asyncio.sleep(self.said_s((number + 1) * CHUNK_SAMPLES) - time.monotonic())
            self.sent_samples += CHUNK_SAMPLES
            self.sent_s.append(time.monotonic())
            await line.send("input_audio_buffer.append", audio=base64.b64encode(chunk).decode())

    async def _listen(self, line: Line) -> None:
        try:
            while True:
                event = await line.next()
                self._note(event, time.monotonic())
        except ConnectionClosed as closed:
            self.error = str(closed)

    def _note(self, event: Event, now_s: float) -> None:
        match event["type"]:
            case "input_audio_buffer.speech_started":
                start = event["audio_start_ms"] * SAMPLE_RATE // 1000
                self.items.append(HeardItem(event["item_id"], start, now_s))
            case "input_audio_buffer.speech_stopped":
                self.items[-1].end, self.items[-1].stopped_s = event["audio_end_ms"] * SAMPLE_RATE // 1000, now_s
            case "response.created":
                made = self.responses[event["response"]["id"]] = HeardResponse(now_s)
                if self.items:
                    self.items[-1].response = made
            case "response.output_audio.delta":
                response = self.responses[event["response_id"]]
                response.first_audio_s, response.last_audio_s = response.first_audio_s or now_s, now_s
            case "response.done":
                response = self.responses[event["response"]["id"]]
                response.done_s, response.status = now_s, event["response"]["status"]
                response.reason = (event["response"]["status_details"] or {}).get("reason", "")
            case _:
                pass
