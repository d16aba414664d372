"""The inline media of one request: in memory until its prompt is prepared, then in the spill file.

The bytes are needed again only where the features made of them are lost. So they leave the memory as soon as features
exist, and a worker that prepares the prompt again gets them from the disk. A file of the object store stays there, and
is read each time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

# As much stays in memory: an unanswered request takes about as much anyway.
SMALL_BYTES = 1 << 16


class StoredFile(Protocol):
    """A file of the object store."""

    @property
    def size_bytes(self) -> int: ...

    def chunks(self, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield its bytes, so many at a time. Raise an AntiphonError."""
        ...


class SpilledFile(Protocol):
    """The bytes of one request on disk."""

    async def read(self, offset: int, size: int) -> bytes: ...

    async def write(self, offset: int, data: bytes | bytearray) -> bool:
        """Write there, at most at the end. Return False where there is no room."""
        ...

    def close(self) -> None:
        """Free the room on disk."""
        ...


class Spill(Protocol):
    """Room on disk for the media of all requests."""

    async def write(self, files: Sequence[bytes | bytearray]) -> SpilledFile | None:
        """Write the files one after another. Return None where there is no room: they stay in memory."""
        ...

    async def open(self) -> SpilledFile | None:
        """Return a file with nothing in it yet; None = there is no room."""
        ...


class HeldMedia:
    """`files` by InlineSource.index. `on_spilled` is called once they have left the memory."""

    def __init__(
        self,
        files: Sequence[bytes | bytearray | StoredFile] = (),
        spill: Spill | None = None,
        on_spilled: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        own = [file if isinstance(file, bytes | bytearray) else b"" for file in files]
        self._stored = {index: file for index, file in enumerate(files) if not isinstance(file, bytes | bytearray)}
        # Bytes of each; 0 for one of the object store.
        self.sizes = tuple(map(len, own))
        self._files: Sequence[bytes | bytearray] | None = own
        self._spill = spill
        self._spilled: SpilledFile | None = None
        self._on_spilled = on_spilled
        self._leaving: asyncio.Task[None] | None = None

    @classmethod
    def on_disk(cls, file: SpilledFile, size: int) -> HeldMedia:
        """Return one file that is on the disk from the start, and never in memory as a whole."""
        held = cls()
        held.sizes, held._files, held._spilled = (size,), None, file
        return held

    @property
    def total_bytes(self) -> int:
        return self.own_bytes + sum(file.size_bytes for file in self._stored.values())

    @property
    def own_bytes(self) -> int:
        """Those that are in memory or on the disk here."""
        return sum(self.sizes)

    @property
    def in_memory(self) -> bool:
        return self._files is not None

    def leave_memory(self) -> None:
        """Begin to move the bytes to the disk. Doing so twice is harmless."""
        if self._leaving is None and self._spill is not None and self.own_bytes > SMALL_BYTES:
            self._leaving = asyncio.create_task(self._leave(self._spill), name="spill")

    async def left(self) -> None:
        """Wait until they have left the memory, or stay there for want of room."""
        if self._leaving is not None:
            await asyncio.wait((self._leaving,))

    async def chunks(self, index: int, chunk_bytes: int) -> AsyncIterator[bytes]:
        """Yield the bytes of one file. Raise an AntiphonError where the object store has it no more."""
        if (stored := self._stored.get(index)) is not None:
            async for chunk in stored.chunks(chunk_bytes):
                yield chunk
            return
        begin, size = sum(self.sizes[:index]), self.sizes[index]
        for offset in range(0, size, chunk_bytes):
            length = min(chunk_bytes, size - offset)
            if self._files is not None:
                yield bytes(memoryview(self._files[index])[offset : offset + length])
            elif self._spilled is not None:
                yield await self._spilled.read(begin + offset, length)
            else:
                return  # closed: nobody waits for what is made of it

    async def close(self) -> None:
        """Free memory and disk. Wait for a write that is under way."""
        await self.left()
        self._files = None
        if self._spilled is not None:
            self._spilled.close()
            self._spilled = None

    async def _leave(self, spill: Spill) -> None:
        if self._files is not None and (spilled := await spill.write(self._files)) is not None:
            self._spilled, self._files = spilled, None
            if self._on_spilled is not None:
                await self._on_spilled()
