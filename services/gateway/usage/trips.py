"""Carries what many tasks ask for in few calls: what arrives while a call is on its way goes with the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.common.errors import Unavailable

Question = TypeVar("Question")
Answer = TypeVar("Answer")


class Trips(Generic[Question, Answer]):
    """`send` gets up to `most` questions, and returns the answer of each in order, or the error that it raises.

    Questions go in the order in which they were asked. One that has time goes with the next that has none. It needs no
    task that runs all the time: one runs while anything must go.
    """

    def __init__(
        self, send: Callable[[Sequence[Question]], Awaitable[Sequence[Answer | Unavailable]]], most: int
    ) -> None:
        self._send = send
        self._most = most
        self._waiting: deque[tuple[Question, asyncio.Future[Answer]]] = deque()
        # How many of the first that wait must go now.
        self._due = 0
        self._running: asyncio.Task[None] | None = None
        # For the others, and when it rings.
        self._timer: asyncio.TimerHandle | None = None
        self._timer_s = 0.0

    def put(self, question: Question, *, within_s: float = 0.0) -> asyncio.Future[Answer]:
        """Return where the answer will be, or Unavailable. A question that was sent is sent, though its answer be
        cancelled; one that was cancelled before is not sent.

        `within_s`: how long the question may wait for others.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((question, answer))
        if within_s <= 0:
            self.hurry()
        else:
            at_s = loop.time() + within_s
            if self._timer is None or at_s < self._timer_s:
                self._stop_timer()
                self._timer, self._timer_s = loop.call_later(within_s, self.hurry), at_s
        return answer

    def hurry(self) -> None:
        """Let all that wait go now."""
        if self._timer is not None:
            self._stop_timer()
        self._due = len(self._waiting)
        if self._due and self._running is None:
            self._running = asyncio.get_running_loop().create_task(self._run(), name="usage trips")

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _run(self) -> None:
        try:
            while self._due > 0:
                count = min(len(self._waiting), self._most)
                self._due -= count
                await self._carry([self._waiting.popleft() for _ in range(count)])
        finally:
            self._running = None

    async def _carry(self, asked: Sequence[tuple[Question, asyncio.Future[Answer]]]) -> None:
        # A task that left before its question was sent does not want it sent.
        wanted = [(question, answer) for question, answer in asked if not answer.done()]
        if not wanted:
            return
        try:
            found = await self._send([question for question, _ in wanted])
        except Unavailable as error:
            # None waits behind a call that hangs and then for one of its own.
            found = [error] * (len(wanted) + len(self._waiting))
            wanted += self._waiting
            self._waiting.clear()
            self._due = 0
        except Exception as error:
            for _, answer in wanted:
                if not answer.done():
                    answer.set_exception(error)
            return
        for (_, answer), one in zip(wanted, found, strict=True):
            if answer.done():
                continue
            if isinstance(one, Unavailable):
                answer.set_exception(Unavailable(one.message, code=one.code, retry_after_s=one.retry_after_s))
            else:
                answer.set_result(one)
