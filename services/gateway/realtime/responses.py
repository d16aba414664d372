"""The responses of a session that run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from services.common.errors import BadInput, Capacity, Unavailable
from services.gateway.realtime.respond import RunningResponse
from services.gateway.turn.events import Usage

# Responses out of band that may run beside the conversation's.
MAX_OUT_OF_BAND = 3


class Responses:
    """At most one in the conversation, a few out of band, and one that is held back until its turn is over.

    `on_end(response, task)` is called after each, once it is out of here.
    """

    def __init__(self, on_end: Callable[[RunningResponse, asyncio.Task[None]], None], used: Usage) -> None:
        self._on_end = on_end
        self.used = used
        """By what is over. Those that end are added."""
        self._running: dict[asyncio.Task[None], RunningResponse] = {}
        self.last_in_conversation: RunningResponse | None = None
        """The one that runs or, if none does, the one before."""

    def __bool__(self) -> bool:
        return bool(self._running)

    @property
    def are_told(self) -> bool:
        """Whether one of them is not held back."""
        return any(not one.is_held for one in self._running.values())

    @property
    def usage(self) -> Usage:
        """What was used so far, by those that run and are not held back, too."""
        return sum((one.usage or Usage() for one in self._running.values() if not one.is_held), self.used)

    @property
    def in_conversation(self) -> RunningResponse | None:
        """The conversation's, unless it is held back."""
        return next((one for one in self._running.values() if _is_conversations(one)), None)

    def check_room(self, *, in_conversation: bool, draining: bool) -> None:
        """Raise BadInput, Capacity or Unavailable where no more may begin."""
        if draining:
            raise Unavailable("This server is shutting down. Open another session.", retry_after_s=1)
        if in_conversation and self.in_conversation is not None:
            raise BadInput(
                "The conversation already has a running response. Wait for response.done, or cancel it.",
                code="conversation_already_has_active_response",
            )
        others = sum(one.response.conversation_id is None for one in self._running.values())
        if not in_conversation and others >= MAX_OUT_OF_BAND:
            raise Capacity(
                f"{MAX_OUT_OF_BAND} responses out of band are running, which is the most. Wait for one.",
                code="too_many_responses",
            )

    def start(self, running: RunningResponse, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name=f"run {running.response.id}")
        self._running[task] = running
        task.add_done_callback(self._ended)
        if _is_conversations(running):
            self.last_in_conversation = running

    def release(self, running: RunningResponse) -> None:
        """Make the one that is held back the conversation's."""
        running.release()
        self.last_in_conversation = running

    def discard(self, running: RunningResponse) -> None:
        """End the one that is held back, without a word."""
        running.discard()
        for task, one in self._running.items():
            if one is running:
                task.cancel()

    def get(self, response_id: str | None) -> RunningResponse:
        """Return the one with this id; None = the conversation's. Raise BadInput where it does not run."""
        for running in self._running.values():
            if (running.response.id == response_id and not running.is_held) or (
                response_id is None and _is_conversations(running)
            ):
                return running
        raise BadInput(
            # LiveKit knows by these two words that this is no failure.
            "Cancellation failed: there is no running response.",
            param="response_id" if response_id else None,
            code="response_cancel_not_active",
        )

    async def close(self) -> None:
        """Cancel what runs."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        running = self._running.pop(task)
        if running.response.usage is not None and not running.is_held:
            self.used += running.response.usage
        self._on_end(running, task)


def _is_conversations(running: RunningResponse) -> bool:
    return running.response.conversation_id is not None and not running.is_held
