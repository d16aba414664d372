"""The silence behind what the model says, sent as it passes.

The API has no event for the end of an answer: LiveKit's client and Pipecat's find it in the audio, where it is silent.
LiveKit's has the answer's text by its place in all of the audio that came: a gap that is not sent puts the text behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from services.gateway.realtime.live.write import AUDIO_DELTA, LiveEvents

SILENCE_MS = 1000.0
"""How much is sent behind speech. With an answer that goes on after a gap, or with the next one, it ends sooner."""
_PACKET_MS = 40.0


class SilenceBehindSpeech:
    def __init__(self, events: LiveEvents, now_ms: Callable[[], float], send: Callable[..., Awaitable[None]]) -> None:
        self._events = events
        self._now_ms = now_ms
        self._send = send
        self._spoke = asyncio.Event()

    def follow(self, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the events of a session, and note whether they hold speech."""
        if any(event["type"] == AUDIO_DELTA for event in events):
            self._spoke.set()
        return events

    async def run(self) -> None:
        """Send silence, each time that the client has played all speech, until this is cancelled."""
        timeline = self._events.timeline
        while await self._spoke.wait():
            self._spoke.clear()
            while timeline.said_ms < timeline.spoken_ms + SILENCE_MS:
                if (ahead_ms := timeline.said_ms - self._now_ms()) > 0:
                    await asyncio.sleep(ahead_ms / 1000)
                else:
                    await self._send(self._events.silence(_PACKET_MS))
