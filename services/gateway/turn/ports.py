"""The interfaces that a turn needs: slots and the three stages. The turn knows neither Redis nor gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from antiphon.v1 import preprocess_pb2, talker_pb2, thinker_pb2
from services.common.queues.tickets import Grant, QueueName, TicketSpec


class SlotClient(Protocol):
    """Implemented by services.common.queues' QueueClient."""

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Wait for a slot. Raise Capacity, TimedOut or Unavailable. Cancelling leaves nothing behind."""
        ...

    async def reacquire(self, grant: Grant) -> Grant:
        """Wait for another slot, first in the ticket's class, on another worker if there is one. Raise as `acquire`."""
        ...

    def give_back(self, grant: Grant) -> None:
        """Free a granted slot that will not be used."""
        ...

    async def wake(self, queue: QueueName) -> None:
        """Announce that a slot of this queue will be needed, so that workers scaled to zero can start."""
        ...

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charge the tenant the stage's real cost instead of the ticket's."""
        ...


class PreprocessStage(Protocol):
    async def prepare(
        self, address: str, start: preprocess_pb2.PrepareStart, inline: Sequence[bytes], timeout_s: float
    ) -> preprocess_pb2.PrepareResponse: ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> None: ...


class ThinkerStage(Protocol):
    def generate(
        self, address: str, request: thinker_pb2.GenerateRequest, timeout_s: float
    ) -> AsyncGenerator[thinker_pb2.GenerateResponse]: ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> None: ...


class TalkerStage(Protocol):
    def speak(
        self, address: str, requests: AsyncGenerator[talker_pb2.SpeakRequest], timeout_s: float
    ) -> AsyncGenerator[talker_pb2.SpeakResponse]: ...


class Stages(Protocol):
    """Clients of the workers. Their methods raise AntiphonErrors; cancelling a method cancels its call."""

    @property
    def preprocess(self) -> PreprocessStage: ...

    @property
    def thinker(self) -> ThinkerStage: ...

    @property
    def talker(self) -> TalkerStage: ...
