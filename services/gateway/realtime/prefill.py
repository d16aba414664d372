"""Reading ahead: what a user says is in the thinker's prefix cache before they have finished."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from services.common.errors import AntiphonError
from services.gateway import metrics
from services.gateway.realtime.conversation import SAMPLE_RATE
from services.gateway.turn.admission import Admission
from services.gateway.turn.intent import Intent, Principal

AUDIO_WINDOW_S = 8
"""The audio encoder's windows: none looks past its end, so a finished one stays as it is when the sound goes on
(config.json's n_window_infer, 800 frames of 10 ms). The thinker caches it as an item of its own."""
_TAIL_MS = 100
"""What a window's last frames need of the sound behind it, its resampling included."""
_WINDOW = AUDIO_WINDOW_S * SAMPLE_RATE
_TAIL = _TAIL_MS * SAMPLE_RATE // 1000

logger = logging.getLogger(__name__)


class Prefill:
    """Has the thinker read the conversation and each finished window of what is spoken, one request at a time.

    The requests have the priority of batches, cost the client nothing, and leave no trace but in the cache.
    """

    def __init__(self, admission: Admission, principal: Principal, *, is_on: bool) -> None:
        self._admission = admission
        self._principal = principal
        self._is_on = is_on
        self._start = -1
        self._windows = 0
        self._reading: asyncio.Task[None] | None = None

    def heard(self, start: int, end: int, intent: Callable[[], Intent]) -> None:
        """Read what has finished since of a turn whose audio begins at sample `start` and is there until `end`.

        `intent` makes the request of all of it.
        """
        if start != self._start:
            self.stop()
            self._start, self._windows = start, 0
        windows = (end - start - _TAIL) // _WINDOW
        if not self._is_on or windows <= self._windows or self._reading is not None:
            return
        self._windows = windows
        self._reading = asyncio.create_task(self._read(intent()), name="read ahead")
        self._reading.add_done_callback(self._over)

    def stop(self) -> None:
        """End what runs: the turn is over."""
        self._start = -1
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    async def close(self) -> None:
        reading = self._reading
        self.stop()
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, intent: Intent) -> None:
        try:
            async with self._admission.admit(self._principal, intent) as turn:
                turn.discard()
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
        if task is self._reading:
            self._reading = None
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("reading ahead failed", exc_info=error)
