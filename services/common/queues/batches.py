"""Sends what many tasks ask for in few calls: what arrives while a call runs goes with the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from services.common.errors import Unavailable
from services.common.redis_client import RETRY_AFTER_S

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Batches(Generic[Item, Answer]):
    """`send` gets up to `most` items and returns their answers in order.

    Where it raises Unavailable, all items that wait get it too: none waits behind a call that hangs and then for one
    of its own. `gather_s`: how long an item waits for others, so that they go together.
    """

    def __init__(
        self, send: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]], most: int, *, gather_s: float = 0.0
    ) -> None:
        self._send = send
        self._most = most
        self._gather_s = gather_s
        self._queued: deque[tuple[Item, asyncio.Future[Answer]]] = deque()
        self._sent: list[asyncio.Future[Answer]] = []
        self._filled = asyncio.Event()
        self._stopped: Unavailable | None = None

    def submit(self, item: Item) -> asyncio.Future[Answer]:
        """Return the future answer. Wait for it in a shield, and `withdraw` it if the wait is cancelled."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._queued.append((item, answer))
        self._filled.set()
        if self._stopped is not None:
            self._fail_all(self._stopped)
        return answer

    def withdraw(self, answer: asyncio.Future[Answer], undo: Callable[[], None]) -> None:
        """Take an item back. Where it was sent, call `undo` once its call has ended."""

        def ended(answer: asyncio.Future[Answer]) -> None:
            if not answer.cancelled():
                answer.exception()  # it is nobody's any more
            undo()

        if answer.done() or any(answer is sent for sent in self._sent):
            answer.add_done_callback(ended)
        else:
            answer.cancel()

    async def run(self) -> None:
        """Send until cancelled. Then all that wait get Unavailable."""
        try:
            while True:
                await self._filled.wait()
                if self._gather_s:
                    await asyncio.sleep(self._gather_s)
                self._filled.clear()
                while batch := self._next():
                    await self._send_now(batch)
        finally:
            self._stopped = Unavailable("The gateway is stopping.", retry_after_s=RETRY_AFTER_S)
            self._fail_all(self._stopped)

    def _next(self) -> dict[asyncio.Future[Answer], Item]:
        batch: dict[asyncio.Future[Answer], Item] = {}
        while self._queued and len(batch) < self._most:
            item, answer = self._queued.popleft()
            if not answer.done():
                batch[answer] = item
        return batch

    async def _send_now(self, batch: dict[asyncio.Future[Answer], Item]) -> None:
        self._sent = list(batch)
        try:
            answers = await self._send(list(batch.values()))
        except Unavailable as error:
            self._fail_all(error)
        else:
            for future, answer in zip(self._sent, answers, strict=True):
                future.set_result(answer)
            self._sent = []

    def _fail_all(self, error: Unavailable) -> None:
        waits = [*self._sent, *(answer for _, answer in self._queued)]
        self._sent = []
        self._queued.clear()
        for answer in waits:
            if not answer.done():
                answer.set_exception(Unavailable(error.message, code=error.code, retry_after_s=error.retry_after_s))
