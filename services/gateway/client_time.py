"""How long a client may take to send a request."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
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

    @contextmanager
    def ours(self) -> Generator[None]:
        """Don't count the time inside the block: the client waits for us."""
        loop = asyncio.get_running_loop()
        left_s = (self._timeout.when() or loop.time()) - loop.time()
        self._timeout.reschedule(None)
        try:
            yield
        finally:
            self._timeout.reschedule(loop.time() + left_s)
