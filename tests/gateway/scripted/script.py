"""Scripts for workers: a call is answered in full, or in part with a failure after it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from services.common.errors import AntiphonError

E = TypeVar("E")


@dataclass(frozen=True, slots=True)
class Act:
    """Send at most `after` events, and then: die (the process is gone), cut (end the call early), hang, or raise
    `error`."""

    do: Literal["die", "cut", "hang", "raise"]
    after: int = 0
    error: AntiphonError | None = None


@dataclass(slots=True)
class Script:
    """The acts of a worker's next calls, in order. Later calls are answered in full."""

    acts: list[Act] = field(default_factory=list[Act])
    # A pause before each event, seconds.
    pace_s: float = 0.0
    # How many calls hang: they have sent all that their act lets them send.
    hanging: int = 0

    def next_act(self) -> Act | None:
        """Take the act of a call that has come. A call that ends before it plays has had its act."""
        return self.acts.pop(0) if self.acts else None

    async def play(self, act: Act | None, events: AsyncIterator[E], die: Callable[[], None]) -> AsyncGenerator[E]:
        left = act.after if act is not None else -1
        while left != 0 and (event := await anext(events, None)) is not None:
            await asyncio.sleep(self.pace_s)
            yield event
            left -= 1
        if act is None:
            return
        if act.error is not None:
            raise act.error
        if act.do == "die":
            die()
        if act.do != "cut":
            self.hanging += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.hanging -= 1
