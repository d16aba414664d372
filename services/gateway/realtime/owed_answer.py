"""An answer that a session gives after the one that runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


class OwedAnswer:
    """`answer` gives one; `over` is called once it has begun, or has not."""

    def __init__(
        self, session_id: str, answer: Callable[[], Coroutine[Any, Any, None]], over: Callable[[], None]
    ) -> None:
        self._name = f"answer {session_id}"
        self._answer = answer
        self._over = over
        self._is_owed = False
        self._giving: asyncio.Task[None] | None = None

    @property
    def is_being_given(self) -> bool:
        return self._giving is not None and not self._giving.done()

    def owe(self) -> None:
        self._is_owed = True

    def take(self) -> bool:
        """Return whether one is owed. Then it is no more."""
        owed, self._is_owed = self._is_owed, False
        return owed

    def give(self) -> None:
        self._giving = asyncio.create_task(self._answer(), name=self._name)
        self._giving.add_done_callback(lambda _: self._over())

    async def close(self) -> None:
        if self._giving is not None:
            self._giving.cancel()
            await asyncio.gather(self._giving, return_exceptions=True)
