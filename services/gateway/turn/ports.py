"""The interfaces that a turn needs: models, slots, accounts and the three stages. The turn knows neither Redis nor
gRPC, neither limits nor prices."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from services.common.derailments import Derailment
from services.common.queues.tickets import Grant, QueueName, TicketSpec
from services.gateway.turn.allowed import Allowed
from services.gateway.turn.amounts import Amounts
from services.gateway.turn.intent import Principal
from services.gateway.turn.model import Model
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.worker_calls import (
    CutCall,
    CutSamples,
    GenerateCall,
    GenerateEvent,
    PrepareCall,
    SpeakCall,
    SpeakEvent,
    SpokenText,
)


class ModelSource(Protocol):
    async def models(self) -> Mapping[str, Model]:
        """Return the models that are served, by name. Raise Unavailable where the queues' store is away."""
        ...


class SlotClient(Protocol):
    """Implemented by services.common.queues' QueueClient."""

    async def acquire(self, queue: QueueName, spec: TicketSpec) -> Grant:
        """Wait for a slot. Raise Capacity, TimedOut or Unavailable. Cancelling leaves nothing behind."""
        ...

    async def reacquire(self, grant: Grant) -> Grant:
        """Wait for another slot, first in the ticket's class, on another worker if there is one. Raise as `acquire`."""
        ...

    def give_back(self, grant: Grant, *, spent: bool = False) -> None:
        """Free a granted slot that will not be used. `spent`: the worker may have worked, so no cost is refunded."""
        ...

    async def wake(self, queue: QueueName) -> None:
        """Announce that a slot of this queue will be needed, so that workers scaled to zero can start."""
        ...

    async def settle(self, grant: Grant, cost: float) -> None:
        """Charge the tenant the stage's real cost instead of the ticket's."""
        ...


class TurnProgress(Protocol):
    """How far a turn is, and how its speech went."""

    @property
    def attempts(self) -> int:
        """Runs of stages: one for each stage that was used, and one for each time that one went on elsewhere."""
        ...

    @property
    def derailment(self) -> Derailment | None:
        """Why its speech no longer followed the text and was ended; None = it was not, as far as is known."""
        ...

    @property
    def spoken_again(self) -> int:
        """How often its speech no longer followed the text and was spoken again."""
        ...

    def amounts(self) -> Amounts:
        """Return what the turn has used."""
        ...


class Account(Protocol):
    """What one turn takes of the limits of who asks. It is opened at most once, and closed once however the turn ends.

    What the turn wants to use it takes first. The methods wait while limits are checked, mostly not at all.
    """

    @property
    def limit(self) -> str:
        """The name of the limit that cut the answer; "" = none did."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """HTTP headers that say how much is left."""
        ...

    async def open(self) -> None:
        """Admit the turn, once. Raise RateLimited, LimitsAway, or TooLarge where a limit on one request does not allow
        it."""
        ...

    async def take_prompt(self, prepared: Prepared) -> None:
        """Take the prompt, before anything is delivered. Raise RateLimited, TooLarge or LimitsAway."""
        ...

    async def take_text(self, tokens: int) -> bool:
        """Return whether so many more tokens may be delivered. If not, the text ends. Raise LimitsAway."""
        ...

    async def take_speech(self, frames: int) -> bool:
        """Return whether so many more codec frames may be delivered. If not, the speech ends. Raise LimitsAway."""
        ...

    def sent(self, text_tokens: int, frames: int) -> None:
        """Note how much of the answer the client was sent by now."""
        ...

    def follow(self, progress: TurnProgress) -> None:
        """Take from now on what `progress` says for what was used: the turn of an account that was opened before it."""
        ...

    async def close(self, outcome: str) -> None:
        """Give back what was not used, and write down what was. `outcome`: as in UsageRecord, but for "limit"."""
        ...


class Accounts(Protocol):
    def allowed_to(self, principal: Principal) -> Allowed:
        """Return what who asks may use."""
        ...

    def check_choices(self, principal: Principal, choices: int) -> None:
        """Raise BadInput where a limit of who asks never lets so many turns run at a time, or begin in a minute."""
        ...

    def account_of(self, request: TurnRequest, progress: TurnProgress) -> Account:
        """Return the account of a turn, which is not opened yet."""
        ...

    def holding_session(
        self, principal: Principal, place_id: str, instead_of: str = ""
    ) -> AbstractAsyncContextManager[None]:
        """Hold a place among the sessions that may be open at a time inside the block. Raise RateLimited where all are
        taken, or LimitsAway. `instead_of`: the place of the connection that this one goes on for, perhaps of a gateway
        that has died. It is given up as this one is taken."""
        ...


class PreprocessStage(Protocol):
    async def prepare(self, call: PrepareCall) -> Prepared: ...

    def cut(self, call: CutCall) -> AsyncGenerator[CutSamples]:
        """Yield the samples of a recording's pieces. Leaving the iteration cancels the call."""
        ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> float:
        """Return what decoding for the turn cost that `prepare` did not return, as Prepared.decode_price_s."""
        ...


class ThinkerStage(Protocol):
    def generate(self, call: GenerateCall) -> AsyncGenerator[GenerateEvent]: ...

    async def release(self, address: str, request_id: str, timeout_s: float) -> None: ...


class TalkerStage(Protocol):
    def speak(self, call: SpeakCall, texts: AsyncGenerator[SpokenText]) -> AsyncGenerator[SpeakEvent]:
        """Yield speech. The texts are read from the first event on; leaving the iteration closes them."""
        ...


class Stages(Protocol):
    """Clients of the workers. Their methods raise AntiphonErrors; cancelling a method cancels its call."""

    @property
    def preprocess(self) -> PreprocessStage: ...

    @property
    def thinker(self) -> ThinkerStage: ...

    @property
    def talker(self) -> TalkerStage: ...
