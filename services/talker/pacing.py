"""How frames are grouped for the client: the first is sent at once, later ones together if the client does not notice.

A message costs the same for one frame as for several, some 50 µs a hop. So a frame may wait for the next ones, but
never so long that a client that plays at once runs out of audio.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from services.common.model_card import SAMPLE_RATE
from services.talker.stream import SpeechChunk, SpeechStream

# However much audio a client has left to play, it wants its transcript to move on and interruptions to work.
_LONGEST_WAIT_S = 0.64


class Pacer:
    """Decides how long a frame may wait for others, by the audio that the client has left to play."""

    def __init__(self, latency_s: float) -> None:
        """latency_s: the longest wait while the client has little left to play; 0 = frames never wait."""
        self._latency_s = latency_s
        self._began_s: float | None = None
        self._sent_s = 0.0

    def patience_s(self, now_s: float) -> float:
        """Return how many seconds a frame made at `now_s` may wait."""
        if self._began_s is None or not self._latency_s:
            return 0.0
        ahead_s = self._sent_s - (now_s - self._began_s)
        wait_s = min(self._latency_s, ahead_s) if ahead_s < 2 * self._latency_s else ahead_s / 2
        return min(max(wait_s, 0.0), _LONGEST_WAIT_S)

    def sent(self, samples: int, now_s: float) -> None:
        if self._began_s is None:
            self._began_s = now_s
        self._sent_s += samples / SAMPLE_RATE


async def paced(stream: SpeechStream, pacer: Pacer) -> AsyncGenerator[SpeechChunk]:
    """Yield the stream's chunks, merged. After the last one, raise what iterating the stream raises."""
    async for first in stream:
        parts, began_s = [first], time.monotonic()
        until_s = began_s + pacer.patience_s(began_s)
        while (left_s := until_s - time.monotonic()) > 0:
            if (more := await _next_within(stream, left_s)) is None:
                break
            parts.append(more)
        chunk = joined(parts)
        pacer.sent(len(chunk.samples), time.monotonic())
        yield chunk


async def _next_within(stream: SpeechStream, left_s: float) -> SpeechChunk | None:
    """Return None if none came in time or the stream is over; the next iteration says which."""
    try:
        async with asyncio.timeout(left_s):
            return await stream.next_chunk()
    except TimeoutError:
        return None


def joined(parts: Sequence[SpeechChunk]) -> SpeechChunk:
    """Merge chunks that follow each other into one."""
    if len(parts) == 1:
        return parts[0]
    return SpeechChunk(
        first_frame=parts[0].first_frame,
        codes=np.concatenate([part.codes for part in parts]),
        first_sample=parts[0].first_sample,
        samples=np.concatenate([part.samples for part in parts]),
        text_tokens=parts[-1].text_tokens,
        spoken_again=parts[-1].spoken_again,
    )
