"""How frames are grouped on their way to the client: the first leaves at once, later ones when they can without loss.

A message costs the same for one frame as for several, some 50 µs a hop. So a frame may wait for the
next ones, but never so long that a client that plays what it gets would fall silent.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence

import numpy as np

from services.common.model_card import SAMPLE_RATE
from services.talker.stream import SpeechChunk, SpeechStream

# However far a client is ahead of what it plays: it wants to see its transcript move, and to interrupt.
_LONGEST_WAIT_S = 0.64


class Pacer:
    """How long a frame may wait for others, by how much the client has not played yet."""

    def __init__(self, latency_s: float) -> None:
        """latency_s: the wait of a client that is little ahead; 0 = no frame ever waits."""
        self._latency_s = latency_s
        self._began_s: float | None = None
        self._sent_s = 0.0

    def patience_s(self, now_s: float) -> float:
        """Seconds that a frame made at `now_s` may wait."""
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
    """The stream's chunks, joined. Raises what iterating the stream raises, after all that came before it."""
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
    """None where none came in time, or the stream is over: who iterates it next is told how."""
    try:
        async with asyncio.timeout(left_s):
            return await stream.next_chunk()
    except TimeoutError:
        return None


def joined(parts: Sequence[SpeechChunk]) -> SpeechChunk:
    """Chunks that follow each other, as one."""
    if len(parts) == 1:
        return parts[0]
    return SpeechChunk(
        first_frame=parts[0].first_frame,
        codes=np.concatenate([part.codes for part in parts]),
        first_sample=parts[0].first_sample,
        samples=np.concatenate([part.samples for part in parts]),
        text_tokens=parts[-1].text_tokens,
    )
