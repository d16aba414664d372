"""What a turn needs from outside: slots, and the three stages. The turn knows neither Redis nor gRPC."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from antiphon.v1 import preprocess_pb2, talker_pb2, thinker_pb2
from services.common.queues.tickets import Grant, QueueName, TicketSpec


class SlotClient(Protocol):
    """services.common.queues' client is one."""

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Waits for a slot. Raises Capacity, TimedOut or Unavailable; cancelling leaves nothing behind."""
        ...

    async def reacquire(self, grant: Grant) -> Grant:
        """Wait for another slot, first in the ticket's class, on another worker if there is one. Raise as `acquire`."""
        ...

    def give_back(self, grant: Grant) -> None:
        """A slot that was granted and will not be used is free again at once."""
        ...

    async def wake(self, queue: QueueName) -> None:
        """A slot of this queue, whose workers are scaled to zero, will be asked for: they can start meanwhile."""
        ...

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charges the tenant what the stage really cost in place of what its ticket said."""
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
    """Clients of the workers. Every method raises AntiphonErrors; cancelling one cancels its call."""

    @property
    def preprocess(self) -> PreprocessStage: ...

    @property
    def thinker(self) -> ThinkerStage: ...

    @property
    def talker(self) -> TalkerStage: ...
