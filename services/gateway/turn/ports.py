"""What a turn needs: slots and clients of the three stages. The turn knows neither Redis nor gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from antiphon.v1 import preprocess_pb2, talker_pb2, thinker_pb2
from services.common.queues.tickets import Grant, QueueName, TicketSpec


class Slots(Protocol):
    """Implemented by the client in services.common.queues."""

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Wait for a slot. Raise Capacity, TimedOut or Unavailable. Cancelling removes the ticket."""
        ...

    async def reacquire(self, grant: Grant) -> Grant:
        """Wait for another slot, at the ticket's old position, after a worker did not begin. Raise as `acquire`."""
        ...

    def give_back(self, grant: Grant) -> None:
        """Free a granted slot that will not be used."""
        ...

    async def wake(self, queue: QueueName) -> None:
        """Start workers of a queue that is scaled to zero, before its slot is needed."""
        ...

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charge the tenant what the stage really cost, instead of the ticket's estimate."""
        ...


class Preprocess(Protocol):
    async def prepare(
        self, address: str, start: preprocess_pb2.PrepareStart, inline: Sequence[bytes], timeout_s: float
    ) -> preprocess_pb2.PrepareResponse: ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> None: ...


class Thinker(Protocol):
    def generate(
        self, address: str, request: thinker_pb2.GenerateRequest, timeout_s: float
    ) -> AsyncGenerator[thinker_pb2.GenerateResponse]: ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> None: ...


class Talker(Protocol):
    def speak(
        self, address: str, requests: AsyncGenerator[talker_pb2.SpeakRequest], timeout_s: float
    ) -> AsyncGenerator[talker_pb2.SpeakResponse]: ...


class Stages(Protocol):
    """Clients of the workers. Each method raises AntiphonErrors. Cancelling it cancels the call."""

    @property
    def preprocess(self) -> Preprocess: ...

    @property
    def thinker(self) -> Thinker: ...

    @property
    def talker(self) -> Talker: ...
