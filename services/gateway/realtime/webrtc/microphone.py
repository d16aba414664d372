"""A call's track from the client: its samples as they come, without gaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

from aiortc import MediaStreamTrack
from aiortc.mediastreams import MediaStreamError
from av import AudioFrame

T = TypeVar("T")

RATE = 48_000
"""That of Opus as it is decoded: samples a second."""
# A client that sends nothing for so long is silent: turns end by silence.
_QUIET_S = 0.5
# Then silence is heard for so long at most; after that it is nothing that a turn waits for.
_MOST_QUIET_S = 10.0
# The longest gap between two packets that is filled: more is no loss of packets.
_MOST_LOST_S = 1.0
# Decoded frames that wait: 2 s of them.
_WAITING_FRAMES = 100


class LatestQueue(asyncio.Queue[T]):
    """Drops the oldest where it is full: who puts never waits."""

    async def put(self, item: T) -> None:
        while self.full():
            self.get_nowait()
        self.put_nowait(item)


def bound(track: MediaStreamTrack) -> None:
    """Keep no more of a track than 2 s. Call it before its peer is connected: the queue of aiortc has no bound."""
    track._queue = LatestQueue[Any](_WAITING_FRAMES)  # pyright: ignore[reportAttributeAccessIssue]


async def samples_of(track: MediaStreamTrack) -> AsyncGenerator[bytes]:
    """Yield what the client says: RATE, mono, 16 bits signed, little-endian; silence where nothing comes. Return at the
    track's end."""
    until: int | None = None
    quiet_s = 0.0
    while True:
        try:
            async with asyncio.timeout(_QUIET_S if until is not None and quiet_s < _MOST_QUIET_S else None):
                frame = await track.recv()
        except TimeoutError:
            quiet_s += _QUIET_S
            yield bytes(2 * round(_QUIET_S * RATE))
            continue
        except MediaStreamError:
            return
        if not isinstance(frame, AudioFrame) or frame.sample_rate != RATE:
            continue
        start = frame.pts or 0
        if until is not None and not quiet_s and 0 < start - until <= _MOST_LOST_S * RATE:
            yield bytes(2 * (start - until))
        until, quiet_s = start + frame.samples, 0.0
        yield _mono(frame)


def _mono(frame: AudioFrame) -> bytes:
    samples = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
    return samples.mean(axis=1).astype("<i2").tobytes()
