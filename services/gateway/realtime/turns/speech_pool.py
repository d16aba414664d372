"""The threads in which sessions' audio is heard, apart from the event loop.

Most of a hop's time is in onnxruntime, without the interpreter. So threads do what processes would, without a copy of
the model and of the audio for each.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from time import monotonic

from services.gateway import metrics
from services.gateway.realtime.turns.silero.model import SileroModel, SpeechDetector

# More threads would wait for the interpreter.
_MOST_THREADS = 4


class SpeechPool:
    """Hears for all sessions of the process. A session waits for each piece of its audio before it gives the next one,
    so that at most one piece of each session is in the queue."""

    def __init__(self, load: Callable[[], SileroModel] = SileroModel) -> None:
        self._load = load
        threads = min(len(os.sched_getaffinity(0)), _MOST_THREADS)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="hear")
        self._model: Future[SileroModel] | None = None

    async def hear(self, detector: SpeechDetector, pcm: bytes | bytearray | memoryview) -> list[float]:
        """Return the probability of speech of each hop that ends within these samples."""
        if not detector.hops(len(pcm)):
            detector.keep(pcm)
            return []
        model, began_s = self._loading(), monotonic()

        def work() -> list[float]:
            return detector.hear(model.result(), pcm)

        probabilities = await asyncio.get_running_loop().run_in_executor(self._threads, work)
        metrics.REALTIME_DETECTION.observe(monotonic() - began_s)
        return probabilities

    def _loading(self) -> Future[SileroModel]:
        """Return the model, which the first session that speaks loads. A load that failed is tried again by the next
        one."""
        if self._model is None or (self._model.done() and self._model.exception() is not None):
            self._model = self._threads.submit(self._load)
        return self._model

    def close(self) -> None:
        """Wait for the work that runs, and end the threads."""
        self._threads.shutdown(cancel_futures=True)
