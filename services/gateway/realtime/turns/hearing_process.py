"""The gateway's end of a process that hears."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
import sys
from asyncio.subprocess import PIPE, Process
from collections import deque

from services.common.errors import Unavailable

HEADER, COUNT = struct.Struct("<II"), struct.Struct("<I")
"""In front of a question and of its answer; see hearing.py."""
_MODULE = "services.gateway.realtime.turns.hearing"
_END_S = 5.0

logger = logging.getLogger(__name__)


class HearingProcess:
    """It starts with the first question. Where it dies another one takes its place, is asked again what was not
    answered, and hears each session as if it began there."""

    def __init__(self) -> None:
        self._running: asyncio.Task[None] | None = None
        self._questions: asyncio.StreamWriter | None = None
        # Without an answer yet, in order, and their answers.
        self._asked: deque[tuple[bytes, asyncio.Future[list[float]]]] = deque()

    def start(self) -> None:
        """Have it started, if it is not."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run(), name="hear")

    async def ask(self, detector: int, pcm: bytes | bytearray | memoryview) -> list[float]:
        """Return the probability of speech of each hop. Raise Unavailable where no process can be had."""
        question = HEADER.pack(detector, len(pcm)) + pcm
        answer: asyncio.Future[list[float]] = asyncio.get_running_loop().create_future()
        self._asked.append((question, answer))
        if self._questions is not None:
            self._questions.write(question)
        self.start()
        return await answer

    def forget(self, detector: int) -> None:
        """Drop the state of a detector."""
        if self._questions is not None:
            self._questions.write(HEADER.pack(detector, 0))

    async def close(self) -> None:
        """End the process. Nothing may be asked any more."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait((self._running,))

    async def _run(self) -> None:
        answered = True
        while answered:
            try:
                # In a session of its own: what a terminal sends to all of the gateway's processes is for the gateway.
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", _MODULE), stdin=PIPE, stdout=PIPE, start_new_session=True
                )
            except OSError:
                logger.exception("no process that hears can be started")
                break
            try:
                answered = await self._ask_all(process)
                logger.error("the process that hears has ended: %s", await process.wait())
            finally:
                self._questions = None
                await asyncio.shield(_end(process))
        for _, answer in self._asked:
            if not answer.done():
                answer.set_exception(Unavailable("Speech can't be heard at the moment. Try again.", retry_after_s=1))
        self._asked.clear()

    async def _ask_all(self, process: Process) -> bool:
        """Ask what has no answer yet, and what comes, until the process ends. Return whether it answered anything."""
        assert process.stdin is not None  # noqa: S101  # both are pipes
        assert process.stdout is not None  # noqa: S101
        self._questions = process.stdin
        for question, _ in self._asked:
            self._questions.write(question)
        answered = False
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (hops,) = COUNT.unpack(await process.stdout.readexactly(COUNT.size))
                probabilities = struct.unpack(f"<{hops}f", await process.stdout.readexactly(4 * hops))
                answered = True
                _, answer = self._asked.popleft()
                if not answer.done():  # who asked may have left
                    answer.set_result(list(probabilities))
        return answered


async def _end(process: Process) -> None:
    assert process.stdin is not None  # noqa: S101  # a pipe
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _END_S)
    except TimeoutError:
        process.kill()
        await process.wait()
