"""Reading ahead: what a user says is in the thinker's prefix cache before they have finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.common.errors import AntiphonError
from services.gateway import metrics
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.realtime.memory import SessionMemory
from services.gateway.turn.admission import Admission
from services.gateway.turn.events import Usage
from services.gateway.turn.intent import Intent, Principal

AUDIO_WINDOW_S = 8
"""The audio encoder's windows: none looks past its end, so a finished one stays as it is when the sound goes on
(config.json's n_window_infer, 800 frames of 10 ms). The thinker caches it as an item of its own."""
_TAIL_MS = 100
"""What a window's last frames need of the sound behind it, its resampling included."""
_WINDOW = AUDIO_WINDOW_S * SAMPLE_RATE
_TAIL = _TAIL_MS * SAMPLE_RATE // 1000
_GROWTH = 8
"""Each request has the whole turn prepared again. So a long turn is read once it has grown by a part of this: all
requests together prepare some eight times its audio, however long it is."""
MOST_UNPAID = 75
"""Windows that are read ahead of the next paid answer, ten minutes of audio: a client that never asks for one, or that
throws its turns away, has no more of them read for nothing."""

logger = logging.getLogger(__name__)


def next_read(windows: int) -> int:
    """Return with how many windows a turn is read next, of which so many were."""
    return windows + max(windows // _GROWTH, 1)


class Prefill:
    """Has the thinker read the conversation and each finished window of what is spoken, one request at a time.

    The requests have the priority READ_AHEAD, below what people wait for, cost the client nothing, and leave no trace
    but in the cache. Where there is no memory for a copy of the turn, a limit of the client is used up, or MOST_UNPAID
    windows were read since the last answer, nothing is read.
    """

    def __init__(self, admission: Admission, principal: Principal, memory: SessionMemory, *, is_on: bool) -> None:
        self._admission = admission
        self._principal = principal
        self._memory = memory
        self._is_on = is_on
        self._start = -1
        self._windows = 0
        self._unpaid = 0
        self._reading: asyncio.Task[None] | None = None
        # Also what is cancelled and not over.
        self._tasks: set[asyncio.Task[None]] = set()

    def heard(self, start: int, end: int, intent: Callable[[], Intent]) -> None:
        """Read what has finished since of a turn whose audio begins at sample `start` and is there until `end`.

        `intent` makes the request of all of it, and may raise an AntiphonError.
        """
        if start != self._start:
            self.stop()
            self._start, self._windows = start, 0
        windows = (end - start - _TAIL) // _WINDOW
        if not self._is_on or windows < next_read(self._windows) or self._reading is not None:
            return
        unpaid = self._unpaid + windows - self._windows
        if unpaid > MOST_UNPAID:
            return
        self._windows, self._unpaid = windows, unpaid
        self._reading = asyncio.create_task(self._read(2 * (end - start), intent), name="read ahead")
        self._tasks.add(self._reading)
        self._reading.add_done_callback(self._over)

    def answered(self, usage: Usage | None) -> None:
        """Note what the client has paid for an answer; None = nothing."""
        if usage is not None and usage.completion_text_tokens:
            self._unpaid = 0

    def stop(self) -> None:
        """End what runs: the turn is over, or forgotten."""
        self._start = -1
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def close(self) -> None:
        self.stop()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _read(self, size_bytes: int, intent: Callable[[], Intent]) -> None:
        try:
            with self._memory.beside(size_bytes):
                async with self._admission.admit(self._principal, intent()) as turn:
                    async for _ in turn.events:
                        pass
            metrics.REALTIME_PREFILLS.labels("read").inc()
        except AntiphonError as error:
            metrics.REALTIME_PREFILLS.labels("failed").inc()
            logger.debug("the thinker did not read ahead: %s", error)
        except asyncio.CancelledError:
            metrics.REALTIME_PREFILLS.labels("late").inc()
            raise

    def _over(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task is self._reading:
            self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("reading ahead failed", exc_info=error)
