"""The events of a turn, in order, and the bounded queue between the turn and its client."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from antiphon.v1 import gateway_pb2, talker_pb2, thinker_pb2
from services.common.errors import AntiphonError

# In order: one ConverseStarted; texts and, for speech, one SpeakStarted and then Speech; one ConverseDone.
TurnEvent = (
    gateway_pb2.ConverseStarted
    | thinker_pb2.GeneratedText
    | talker_pb2.SpeakStarted
    | talker_pb2.Speech
    | gateway_pb2.ConverseDone
)


@dataclass(frozen=True, slots=True)
class _End:
    error: AntiphonError | None


class EventQueue:
    """The events of one turn on their way to the client.

    It is bounded: a slow client stops the reading of the workers' streams, and so the workers. It holds all events back
    until `release`, so that the client gets a status for an earlier failure instead of the events.
    """

    def __init__(self, size: int) -> None:
        self._queue: asyncio.Queue[TurnEvent | _End] = asyncio.Queue(size)
        self._released = asyncio.Event()
        self._early: AntiphonError | None = None

    @property
    def released(self) -> bool:
        return self._released.is_set()

    def release(self) -> None:
        self._released.set()

    async def put(self, event: TurnEvent) -> None:
        await self._queue.put(event)

    async def end(self, error: AntiphonError | None = None) -> None:
        if not self.released:
            self._early = error
            self._released.set()
        if self._early is None:
            await self._queue.put(_End(error))

    def __aiter__(self) -> EventQueue:
        return self

    async def __anext__(self) -> TurnEvent:
        """Return the next event. Raise the AntiphonError of a turn that failed."""
        await self._released.wait()
        if self._early is not None:
            raise self._early
        event = await self._queue.get()
        if isinstance(event, _End):
            if event.error is not None:
                raise event.error
            raise StopAsyncIteration
        return event
