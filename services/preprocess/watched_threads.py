"""The threads that run the checkpoint's processor and tokenizer, off the event loop. They are watched as engines are
(`services.common.engine_watch`)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from services.common.errors import ENGINE_FAILED, WorkerLost

P = ParamSpec("P")
T = TypeVar("T")


class WatchedThread:
    """Runs one job at a time: neither tokenizers nor processors are documented as thread-safe.

    A job may take as long as it likes while it takes processor time, which a slow machine gives late. One that waits
    for ever takes none.
    """

    def __init__(self, name: str) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._clock = time.pthread_getcpuclockid(self._thread.submit(threading.get_ident).result())
        self._abandoned = asyncio.Event()
        # Processor time of the thread, as last seen, and when it was last seen to grow; monotonic.
        self._used_s = self._worked_at_s = 0.0
        # When the question that it has not answered yet was asked.
        self._asked_at_s: float | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown(wait=not self._abandoned.is_set(), cancel_futures=True)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `work` returns, or raise what it raises. Raise WorkerLost once the thread is abandoned: with
        ENGINE_FAILED where it was at this job, which may be what it hangs in.

        A call that is cancelled ends once its work has, where that had begun."""
        submitted = self._thread.submit(work, *args, **kwargs)
        job = asyncio.wrap_future(submitted)
        abandoned = asyncio.ensure_future(self._abandoned.wait())
        try:
            await asyncio.wait((job, abandoned), return_when=asyncio.FIRST_COMPLETED)
            if not job.done():
                code = ENGINE_FAILED if submitted.running() else None
                raise WorkerLost("The preprocess worker hangs. Send the request again.", code=code)
            return job.result()
        except asyncio.CancelledError:
            # Where it has begun, its memory is in use until it is done.
            if not submitted.cancel():
                await asyncio.wait((job, abandoned), return_when=asyncio.FIRST_COMPLETED)
            raise
        finally:
            abandoned.cancel()
            if not job.cancel() and not job.cancelled():
                job.exception()  # nobody else asks for it

    @property
    def at_work_for_s(self) -> float | None:
        """How long after the open question the thread was last seen at work, seconds; None where there is none."""
        used_s = time.clock_gettime(self._clock)
        if used_s > self._used_s:
            self._used_s, self._worked_at_s = used_s, time.monotonic()
        return None if self._asked_at_s is None else max(self._worked_at_s - self._asked_at_s, 0.0)

    async def answer(self) -> None:
        """Return once the thread has done the jobs that it has."""
        self._asked_at_s = time.monotonic()
        try:
            await self.run(lambda: None)
        finally:
            self._asked_at_s = None

    def abandon(self) -> None:
        self._abandoned.set()


class WatchedThreads:
    """All threads of a worker, as its engine."""

    def __init__(self, threads: Sequence[WatchedThread]) -> None:
        self._threads = threads

    @property
    def longest_step_s(self) -> float:
        """How long the thread that stands still was at work before, seconds."""
        at_work = [thread.at_work_for_s for thread in self._threads]
        return min((seconds for seconds in at_work if seconds is not None), default=0.0)

    async def answer(self) -> None:
        """Return once each thread has done the jobs that it has."""
        async with asyncio.TaskGroup() as group:
            for thread in self._threads:
                group.create_task(thread.answer())

    def abandon(self) -> None:
        """Make all jobs raise WorkerLost, though a thread hangs in one."""
        for thread in self._threads:
            thread.abandon()
