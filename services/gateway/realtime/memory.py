"""The memory of one session: what its items and its audio buffer take of the gateway's budget."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager

from services.common.errors import Capacity, TooLarge
from services.common.memory_budget import Hold
from services.gateway.memory import GatewayMemory
from services.gateway.turn.held_media import SMALL_BYTES

# Room is taken in steps of this.
_STEP_BYTES = 1 << 18


class SessionMemory:
    """Grows and shrinks with the session. A small session is not counted, as a small request is not."""

    def __init__(self, memory: GatewayMemory, tenant: str, max_bytes: int) -> None:
        self._memory = memory
        self._tenant = tenant
        self._max_bytes = max_bytes
        self._held = AsyncExitStack()
        self._hold: Hold | None = None

    async def resize(self, size_bytes: int) -> None:
        """Hold so much from now on. Raise TooLarge where a session may not have it, Capacity where there was no room in
        time."""
        if size_bytes > self._max_bytes:
            raise TooLarge(
                f"The session would hold {size_bytes} bytes of items and audio, and at most {self._max_bytes} are"
                " allowed. Delete items first.",
                code="session_too_large",
            )
        wanted = -(-size_bytes // _STEP_BYTES) * _STEP_BYTES if size_bytes > SMALL_BYTES else 0
        has = self._hold.size_bytes if self._hold is not None else 0
        if wanted > has:
            await self._grow(wanted, wanted - has)
        elif self._hold is not None and has - wanted >= _STEP_BYTES:
            self._hold.shrink(has - wanted)

    @contextmanager
    def beside(self, size_bytes: int) -> Generator[None]:
        """Hold so much more inside the block, for work that need not be done. Raise Capacity where there is no room
        now."""
        with self._memory.budget.take_at_once(what="Work ahead") as hold:
            if not hold.grow_at_once(size_bytes):
                raise _no_room()
            yield

    async def close(self) -> None:
        await self._held.aclose()

    async def _grow(self, wanted: int, by_bytes: int) -> None:
        budget = self._memory.budget
        if self._memory.is_crowded(self._tenant):
            raise _no_room()
        try:
            async with asyncio.timeout(self._memory.wait_s):
                if self._hold is None:
                    most = -(-self._max_bytes // _STEP_BYTES) * _STEP_BYTES
                    self._hold = await self._held.enter_async_context(
                        budget.take(wanted, what="The session", tenant=self._tenant, most_bytes=most)
                    )
                else:
                    await self._hold.grow(by_bytes)
        except TimeoutError:
            raise _no_room() from None


def _no_room() -> Capacity:
    return Capacity(
        "The session found no room in the server's memory. Send the event again later.",
        code="memory_full",
        retry_after_s=5,
    )
