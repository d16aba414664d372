"""What turn taking needs of a session."""

from __future__ import annotations

from typing import Protocol

from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import Emit
from services.gateway.realtime.input_buffer import InputBuffer
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.respond import RunningResponse
from services.gateway.realtime.session_end import SessionEnd


class Floor(Protocol):
    """A session, as the taking of turns sees it. Its methods raise no AntiphonError: they tell the client."""

    @property
    def buffer(self) -> InputBuffer: ...

    @property
    def is_heard(self) -> bool:
        """Whether the listener hears an answer now."""
        ...

    @property
    def is_answering(self) -> bool:
        """Whether a response of the conversation runs."""
        ...

    @property
    def emit(self) -> Emit: ...

    async def keep(self, lead: Lead) -> None:
        """Have the answer's audio no further ahead."""
        ...

    def interrupt(self) -> RunningResponse | None:
        """Stop the answer at once, and have the conversation keep what was heard of it. Return what still has to send
        its last event."""
        ...

    async def add_turn(self, item: Item) -> bool:
        """Add what the user said to the conversation. Return whether it could be."""
        ...

    async def answer(self) -> None:
        """Begin a response to the conversation, after the one that runs."""
        ...

    async def prepare_answer(self, item: Item) -> RunningResponse | None:
        """Begin a response to the conversation and `item`, and hold it back. Return None where it may not begin."""
        ...

    async def is_finished(self, item: Item) -> bool | None:
        """Have it judged whether `item` is all that the user says; None = nobody knows."""
        ...

    async def is_meant(self, item: Item) -> bool | None:
        """Have it judged whether `item`, a short sound over an answer, is said to interrupt it; None = nobody knows."""
        ...

    def is_current(self, running: RunningResponse) -> bool:
        """Whether the one that is held back answers the conversation as it is now, and does not fail."""
        ...

    async def give_answer(self, running: RunningResponse) -> None:
        """Let the one that was held back speak."""
        ...

    def discard_answer(self, running: RunningResponse) -> None: ...

    def end(self, reason: SessionEnd) -> None: ...
