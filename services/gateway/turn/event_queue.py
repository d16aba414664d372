"""The queue of events between a turn and its client."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import AntiphonError
from services.gateway.turn.events import TurnEvent


@dataclass(frozen=True, slots=True)
class _End:
    error: AntiphonError | None


class EventQueue:
    """The events of one turn on their way to the client.

    It holds all events back until `release`, so that the client gets a status for an earlier failure instead of the
    events. From then on it is bounded: a slow client stops the reading of the workers' streams, and so the workers.
    Before, only the answer's length bounds it: a thinker that waited for room would keep its slot from the turns that
    the talker, whose start releases the events, waits for.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._events: deque[TurnEvent] = deque()
        self._end: _End | None = None
        self._room = asyncio.Event()
        self._released = False
        self._early: AntiphonError | None = None
        # What the reader waits for, or last waited for.
        self._waiter: asyncio.Future[None] | None = None

    @property
    def released(self) -> bool:
        return self._released

    def release(self) -> None:
        if not self._released:
            self._released = True
            if self._events:
                self.nudge()

    async def put(self, event: TurnEvent) -> None:
        while self._released and len(self._events) >= self._size:
            self._room.clear()
            await self._room.wait()
        if self._end is not None:  # it was cut
            return
        self._events.append(event)
        if self._released:
            self.nudge()

    def end(self, error: AntiphonError | None = None) -> None:
        """Give the client no more events than there are, and then the error. Only the first end counts."""
        if self._end is not None:
            return
        if not self._released:
            self._early = error
            self._released = True
        self._end = _End(error)
        self.nudge()

    def cut(self, error: AntiphonError) -> None:
        """End with the error at once: what waits for the client is dropped."""
        self._events.clear()
        self._room.set()
        self.end(error)

    def nudge(self) -> None:
        """Wake the reader, if it waits: `take` returns, with nothing where there is no event."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def take(self) -> Sequence[TurnEvent] | None:
        """Wait for events and return all that there are: none where a `nudge` came first; None at the end.

        Raise the AntiphonError of a turn that failed.
        """
        if not self._is_readable:
            await self._next_nudge()
            if not self._is_readable:
                return ()
        if self._has_ended():
            return None
        taken = tuple(self._events)
        self._events.clear()
        self._room.set()
        return taken

    def __aiter__(self) -> EventQueue:
        return self

    async def __anext__(self) -> TurnEvent:
        """Return the next event. Raise the AntiphonError of a turn that failed."""
        while not self._is_readable:
            await self._next_nudge()
        if self._has_ended():
            raise StopAsyncIteration
        self._room.set()
        return self._events.popleft()

    @property
    def _is_readable(self) -> bool:
        return self._released and (bool(self._events) or self._end is not None)

    def _next_nudge(self) -> asyncio.Future[None]:
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _has_ended(self) -> bool:
        """Return whether all events have been read. Raise the error that ended the turn, where it is due."""
        if self._early is not None:
            raise self._early
        if self._events or self._end is None:
            return False
        if self._end.error is not None:
            raise self._end.error
        return True
