"""How long a client may take to send a request."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from services.common.errors import SlowBody


class ClientTime:
    """Raises SlowBody where its block lasts longer than `timeout_s`, but for what is `ours`."""

    def __init__(self, timeout_s: float, message: str) -> None:
        self._message = message
        self._timeout = asyncio.timeout(timeout_s)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError:
            raise SlowBody(self._message) from None

    def ours(self) -> AbstractContextManager[None]:
        """Don't count the time inside the block: the client waits for us."""
        return _Paused(self._timeout)


class _Paused(AbstractContextManager[None]):
    def __init__(self, timeout: asyncio.Timeout) -> None:
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._left_s = 0.0

    def __enter__(self) -> None:
        now_s = self._loop.time()
        self._left_s = (self._timeout.when() or now_s) - now_s
        self._timeout.reschedule(None)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timeout.reschedule(self._loop.time() + self._left_s)
