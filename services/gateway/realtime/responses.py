"""The responses of a session: how one begins, and those that run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from services.common.errors import BadInput, Capacity, Unavailable
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.asking import Asking
from services.gateway.realtime.conversation import Item
from services.gateway.realtime.events import Emit, ResponseCreated
from services.gateway.realtime.pacing import Lead
from services.gateway.realtime.places import InConversation, Nowhere
from services.gateway.realtime.reading import Reading
from services.gateway.realtime.respond import RunningResponse
from services.gateway.realtime.response import Response, ResponseOptions
from services.gateway.realtime.session_items import SessionItems
from services.gateway.realtime.spoken import usual_token_s
from services.gateway.turn.events import Usage

# Responses out of band that may run beside the conversation's.
MAX_OUT_OF_BAND = 3


class Responses:
    """At most one in the conversation, a few out of band, and one that is held back until its turn is over.

    `on_end(response, task)` is called after each, once it is out of here.
    """

    def __init__(
        self,
        asking: Asking,
        items: SessionItems,
        emit: Emit,
        limits: RealtimeLimits,
        on_end: Callable[[RunningResponse, asyncio.Task[None]], None],
        used: Usage,
    ) -> None:
        self._asking = asking
        self._items = items
        self._emit = emit
        self._limits = limits
        self._on_end = on_end
        self.is_closed = False
        """Whether no more may begin."""
        self.used = used
        """By what is over. Those that end are added."""
        self._running: dict[asyncio.Task[None], RunningResponse] = {}
        # What each reads, by its id.
        self._read: dict[str, Reading] = {}
        self.lead = Lead.FULL
        """How far the audio of the conversation's may be ahead, also of one that begins."""
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

    def heard_with(self, said: Item) -> list[Item]:
        """Return what the model has read of the conversation, an answer that is being given as far as the listener has
        heard it, and what was `said` since. The conversation does not change."""
        items, last = self._items.context.items(), self.last_in_conversation
        if last is not None:
            answer = {item.id for item in last.response.items}
            items = [last.as_heard(item) if item.id in answer else item for item in items]
        return [*items, said]

    @property
    def items_read(self) -> Iterator[Item]:
        """What they read; an item may come again."""
        return (item for read in self._read.values() for item in read.items)

    @property
    def options(self) -> Iterator[ResponseOptions]:
        """Their options, and those of the conversation's last one, which is known until the next; some come again."""
        yield from (one.response.options for one in self._running.values())
        if self.last_in_conversation is not None:
            yield self.last_in_conversation.response.options

    def check_room(self, *, in_conversation: bool, draining: bool = False) -> None:
        """Raise BadInput, Capacity or Unavailable where no more may begin."""
        if draining or self.is_closed:
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

    def reading(self, options: ResponseOptions, items: Sequence[Item] | None, said: Item | None) -> Reading:
        """Return what a response would read. `items`: None = the conversation's, with what was `said` behind them."""
        max_text_bytes = self._limits.max_text_bytes
        return Reading(self._asking, self._items.context, options, items, said, max_text_bytes=max_text_bytes)

    async def begin(
        self,
        options: ResponseOptions,
        items: Sequence[Item] | None,
        metadata: Mapping[str, str] | None,
        *,
        in_conversation: bool = True,
        held_for: Item | None = None,
    ) -> RunningResponse:
        """Begin a response to `items`; None = the conversation. `held_for`: what the user has said until now. The
        response to it is held back. Raise an AntiphonError where it may not begin."""
        self.check_room(in_conversation=in_conversation)
        read = self.reading(options, items, held_for)
        conversation = self._items.conversation
        # Whatever it reads, its answer comes behind all that is there now.
        answers = held_for.id if held_for is not None else conversation.last_id
        await self._items.reserve(self._items.bytes_beside(read.items) + options.size_bytes)
        response = Response(options, conversation.id if in_conversation else None, metadata)
        self._read[response.id] = read
        places = InConversation(conversation, self._items.add, answers) if in_conversation else Nowhere()
        token_s = usual_token_s(conversation.answers, options.speech.voice)
        running = RunningResponse(
            response, self._emit, places, self._limits.lead_s, token_s, is_held=held_for is not None
        )
        if held_for is None:
            await self._emit(ResponseCreated(response))
        work = running.run(self._asking.admission, self._asking.principal, read.intent(), read.shorter)
        task = asyncio.create_task(work, name=f"run {response.id}")
        self._running[task] = running
        task.add_done_callback(self._ended)
        if _is_conversations(running):
            self._make_last(running)
        return running

    def release(self, running: RunningResponse) -> None:
        """Make the one that is held back the conversation's."""
        running.release()
        self._make_last(running)

    def keep(self, lead: Lead) -> None:
        """Have the conversation's audio no further ahead."""
        self.lead = lead
        if (running := self.in_conversation) is not None:
            running.keep(lead)

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

    def _make_last(self, running: RunningResponse) -> None:
        self.last_in_conversation = running
        if self.lead is not Lead.FULL:
            running.keep(self.lead)

    def _ended(self, task: asyncio.Task[None]) -> None:
        running = self._running.pop(task)
        del self._read[running.response.id]
        if running.response.usage is not None and not running.is_held:
            self.used += running.response.usage
        self._on_end(running, task)


def _is_conversations(running: RunningResponse) -> bool:
    return running.response.conversation_id is not None and not running.is_held
