"""What requests take of the process's memory: the body and what is made of it, then the messages and inline media.

    the body, as it arrives ─▶ what parsing and decoding it take ─▶ messages and media ─▶ messages ─▶ nothing
                                                           once prepared, media goes to the disk
    beside messages and media: the encoder of the answer's speech

A request that needs little is not counted. One that must wait for room waits in the budget's order, as long as a body
may take to arrive; one that can never have it is refused with the numbers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from services.common.errors import Capacity, TooLarge
from services.common.memory_budget import Hold, MemoryBudget
from services.common.open_calls import MOST_READS
from services.gateway.limits import MAX_VALUES, READ_BYTES, RequestLimits, leaves_room
from services.gateway.turn.conversation import (
    FileSource,
    InlineSource,
    MediaSource,
    Message,
    Part,
    TextPart,
    UrlSource,
    held_text_bytes,
)
from services.gateway.turn.held_media import SMALL_BYTES, HeldMedia, Spill, StoredFile

# What a request holds at most while it waits for its first room: bytes of its body in the server's buffer, as many on
# their way into the body, its headers, and what a small body was parsed into.
_WAITING_BYTES = 3 * READ_BYTES
_MAX_WAITING = 1024
# The part of the process's memory for requests that wait.
_WAITING_PART = 16
# A body's room grows in steps of this.
_STEP_BYTES = 1 << 20
# What a part or a source takes beside its text.
_OBJECT_BYTES = 512
# What parsing takes at most of any body, however small (outline.py).
_PARSING_BYTES = 65 * MAX_VALUES
# The most that a request takes later beside what it keeps: the encoder of its answer's speech, whatever its format.
LATER_BYTES = 8 << 20


def requests_bytes(memory_bytes: int, max_message_bytes: int) -> int:
    """Return how many of `memory_bytes` the requests' budget is. The rest is for what nobody may be made to wait for:
    what the servers have read of requests that wait for room, and of calls without a key."""
    return max(memory_bytes - memory_bytes // _WAITING_PART - MOST_READS * max_message_bytes, memory_bytes // 2)


class GatewayMemory:
    """The memory and the disk of all requests. A request may wait for room as long as its body may take to arrive."""

    def __init__(self, budget: MemoryBudget, spill: Spill, limits: RequestLimits) -> None:
        self.budget = budget
        self.spill = spill
        self.wait_s = limits.body_timeout_s
        self.max_text_bytes = limits.max_text_bytes
        self._max_body_bytes = limits.max_body_bytes
        self._max_waiting = max(min(budget.total_bytes // _WAITING_PART // _WAITING_BYTES, _MAX_WAITING), 1)

    def is_crowded(self, tenant: str) -> bool:
        """Return whether no more requests of the tenant may wait for their first room."""
        budget = self.budget
        return not leaves_room(budget.arriving_of(tenant), budget.arriving, self._max_waiting)

    def body_bytes(self, size_bytes: int) -> int:
        """Return the most that a JSON body of this size takes at a time, from when it comes until it is parsed."""
        return _body_bytes(size_bytes, self.max_text_bytes)

    def request_most_bytes(self, body_bytes: int | None) -> int:
        """Return the most that a request with a body of this size may take at a time, its answer's encoder included;
        with one of unknown size (None) as much as there is."""
        if body_bytes is None:
            return min(self.body_bytes(self._max_body_bytes), self.budget.total_bytes)
        most_bytes = self.body_bytes(body_bytes)
        return max(most_bytes, min(most_bytes + LATER_BYTES, self.budget.total_bytes))

    def check_most(self, most_bytes: int, *, what: str, param: str | None = None) -> None:
        """Raise TooLarge where `most_bytes` can never be had."""
        if most_bytes > self.budget.total_bytes:
            raise TooLarge(
                f"{what} would take up to {most_bytes} bytes of memory, and the server has {self.budget.total_bytes}"
                " for all requests. Send a smaller one, or media as URLs.",
                param=param,
                code="request_too_large",
            )

    def line_most_bytes(self, size_bytes: int, later_bytes: int) -> int:
        """Return the most that a batch's line may take once it runs; see RequestMemory.take_line. 0 = it is little."""
        return self.request_most_bytes(size_bytes + later_bytes) if size_bytes > SMALL_BYTES else 0

    @asynccontextmanager
    async def request(self, tenant: str) -> AsyncGenerator[RequestMemory]:
        """Give back whatever the request holds at the end of the block."""
        memory = RequestMemory(self, tenant)
        try:
            yield memory
        finally:
            await memory.close()


class RequestMemory:
    """What one request holds. Errors name `what`."""

    def __init__(self, memory: GatewayMemory, tenant: str) -> None:
        self._memory = memory
        self._tenant = tenant
        self._held: AsyncExitStack | None = None
        self._hold: Hold | None = None
        self._media = HeldMedia()
        # Parts of the hold: what `keep` keeps; what `beside` holds, and how much it may take later.
        self._kept_bytes = self._beside_bytes = self._later_bytes = 0

    @property
    def tenant(self) -> str:
        return self._tenant

    @property
    def total_bytes(self) -> int:
        """What all requests may have together."""
        return self._memory.budget.total_bytes

    async def take(self, size_bytes: int, *, most_bytes: int, what: str, param: str | None = None) -> None:
        """Wait for the first `size_bytes` of at most `most_bytes`.

        Raise TooLarge where `most_bytes` can never be had, Capacity where there was no room in time.
        """
        budget = self._memory.budget
        self._memory.check_most(most_bytes, what=what, param=param)
        if self._memory.is_crowded(self._tenant):
            raise _no_room(what)
        held = AsyncExitStack()
        try:
            async with asyncio.timeout(self._memory.wait_s):
                self._hold = await held.enter_async_context(
                    budget.take(size_bytes, what=what, tenant=self._tenant, most_bytes=most_bytes, param=param)
                )
        except TimeoutError:
            raise _no_room(what) from None
        self._held = held

    async def grow_to(self, size_bytes: int) -> None:
        """Wait until it holds so much. Raise as `take`."""
        hold = self._hold
        if hold is None or size_bytes <= hold.size_bytes:
            return
        try:
            async with asyncio.timeout(self._memory.wait_s):
                await hold.grow(size_bytes - hold.size_bytes)
        except TimeoutError:
            raise _no_room(hold.what) from None

    async def grow_body(self, size_bytes: int, declared_bytes: int | None, *, is_whole: bool) -> None:
        """Wait for room for a JSON body of which so much has come; where it is whole, for what it takes until its
        media is decoded. Raise as `take`.
        """
        if size_bytes <= SMALL_BYTES:
            return
        if self._hold is None:
            most_bytes = self._memory.request_most_bytes(declared_bytes)
            await self.take(min(_STEP_BYTES, most_bytes), most_bytes=most_bytes, what="The body")
        if is_whole:
            await self.grow_to(self._memory.body_bytes(size_bytes))
        else:
            await self.grow_to(-(-(size_bytes + 2 * READ_BYTES) // _STEP_BYTES) * _STEP_BYTES)

    async def take_line(self, size_bytes: int, later_bytes: int) -> None:
        """Wait for what a batch's line takes, from when it is read until its endpoint has parsed it: then it is that
        request's body, to which `later_bytes` may be added. Raise as `take`."""
        if most_bytes := self._memory.line_most_bytes(size_bytes, later_bytes):
            await self.take(self._memory.body_bytes(size_bytes), most_bytes=most_bytes, what="The line")

    async def grow_file(self, size_bytes: int, most_bytes: int, *, param: str) -> None:
        """Wait for room for a file of which so much has come, of at most `most_bytes` with its request. Raise as
        `take`.
        """
        if size_bytes <= SMALL_BYTES:
            return
        if self._hold is None:
            await self.take(min(_STEP_BYTES, most_bytes), most_bytes=most_bytes, what="The file", param=param)
        await self.grow_to(min(-(-size_bytes // _STEP_BYTES) * _STEP_BYTES, most_bytes))

    async def keep(
        self,
        messages: Iterable[Message],
        files: Sequence[bytes | bytearray | StoredFile],
        other_text: str = "",
        *,
        other_bytes: int = 0,
        later_bytes: int = 0,
    ) -> HeldMedia:
        """Hold only what the turn needs from now on: its messages, media, other text and other bytes. Return the media.
        Raise as `take`. `later_bytes`: the most that `beside` takes later."""
        self._later_bytes = later_bytes
        text_bytes = messages_bytes(messages) + held_text_bytes(other_text) + other_bytes
        self._media = HeldMedia(files, self._memory.spill, on_spilled=lambda: self._hold_only(text_bytes))
        size_bytes = text_bytes + self._media.own_bytes
        if self._held is None and size_bytes > SMALL_BYTES:
            await self.take(size_bytes, most_bytes=size_bytes + later_bytes, what="The request", param="messages")
        await self.grow_to(size_bytes)
        await self._hold_only(size_bytes)
        return self._media

    @asynccontextmanager
    async def beside(self, size_bytes: int, *, what: str, param: str | None = None) -> AsyncGenerator[None]:
        """Hold so much more inside the block, once, after `keep` was told of it. Raise as `take`.

        It is a part of the request's own hold, so that requests which hold messages do not wait for each other.
        """
        if self._hold is None:
            await self.take(size_bytes, most_bytes=size_bytes, what=what, param=param)
        else:
            await self.grow_to(self._hold.size_bytes + size_bytes)
        self._beside_bytes, self._later_bytes = size_bytes, 0
        await self._settle()
        try:
            yield
        finally:
            self._beside_bytes = 0
            await self._settle()

    async def close(self) -> None:
        try:
            await self._media.close()
        finally:
            self._beside_bytes = 0
            await self._hold_only(0)

    async def _hold_only(self, size_bytes: int) -> None:
        """Keep no more than this from now on, and nothing where it is little."""
        self._kept_bytes = size_bytes if self._hold is not None and size_bytes > SMALL_BYTES else 0
        await self._settle()

    async def _settle(self) -> None:
        if self._held is None or self._hold is None:
            return
        size_bytes = self._kept_bytes + self._beside_bytes
        if size_bytes:
            self._hold.shrink(self._hold.size_bytes - size_bytes)
            self._hold.settle(self._later_bytes)
        else:
            held, self._held, self._hold = self._held, None, None
            await held.aclose()


def _body_bytes(body_bytes: int, max_text_bytes: int) -> int:
    """Return the most memory that a JSON body takes until its media is decoded.

    The body and its strings, which are one byte a character for media. Text may take four bytes a character, its UTF-8
    beside that, which Python keeps once it was asked for, and that of a check. Decoding takes less than the body, which
    is freed before.
    """
    return 2 * body_bytes + 5 * min(body_bytes, max_text_bytes) + _PARSING_BYTES


def messages_bytes(messages: Iterable[Message]) -> int:
    """Return about how many bytes the messages take in memory, without inline media."""
    return sum(_message_bytes(message) for message in messages)


def _message_bytes(message: Message) -> int:
    calls = sum(_OBJECT_BYTES + held_text_bytes(call.arguments) for call in message.tool_calls)
    return calls + sum(map(_part_bytes, message.parts))


def _part_bytes(part: Part) -> int:
    if isinstance(part, TextPart):
        return _OBJECT_BYTES + held_text_bytes(part.text)
    sources = (part.source,) if isinstance(part.source, MediaSource) else part.source
    return _OBJECT_BYTES + sum(_OBJECT_BYTES + _name_bytes(source) for source in sources)


def _name_bytes(source: MediaSource) -> int:
    match source:
        case UrlSource():
            return 4 * len(source.url)
        case FileSource():
            return 4 * len(source.path)
        case InlineSource():
            return 0


def _no_room(what: str) -> Capacity:
    return Capacity(
        f"{what} found no room in the server's memory. Send the request again later.",
        code="memory_full",
        retry_after_s=5,
    )
