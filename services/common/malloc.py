"""Makes the C library give freed memory back to the system.

By default glibc raises the size from which a block has pages of its own, up to 32 MiB, whenever such a block is freed.
Smaller ones come from heaps, one for each thread, which keep what is freed unless it is at their end: a budget of
memory would not hold.
"""

from __future__ import annotations

import asyncio
import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_OWN_PAGES_BYTES = 256 * 1024
_HEAPS = 2
# Of the heaps' free blocks so much may stay for the next ones that are asked for.
_FREE_BYTES = 16 << 20
_LOOK_EVERY_S = 0.5
# Blocks may be taken and freed between two looks: once in so many looks they go back in any case.
_MOST_LOOKS = 60


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2. `fordblks`: bytes of free blocks."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        )
    )


def give_back_large_blocks() -> None:
    """Call before threads start. Do nothing where the C library is another one."""
    mallopt = getattr(_library(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        mallopt(_M_ARENA_MAX, _HEAPS)


class FreeBlocks:
    """Decides when pages of free blocks are to be given back. Blocks stay free when they have no pages any more, and to
    go through all of them stops who allocates for some ten ms: so it is done for those that were freed since."""

    def __init__(self) -> None:
        # Bytes that were free at the least since pages were given back: those blocks have none.
        self._least = 0
        self._looks = 0

    def are_many(self, free_bytes: int) -> bool:
        """Return whether there are many whose pages the process has. Then they are taken to go back."""
        self._least = min(self._least, free_bytes)
        self._looks += 1
        is_late = self._looks >= _MOST_LOOKS and free_bytes > _FREE_BYTES
        if free_bytes - self._least <= _FREE_BYTES and not is_late:
            return False
        self._least, self._looks = free_bytes, 0
        return True


async def give_back_free_blocks() -> None:
    """Give the free pages inside the heaps back whenever there are many, until it is cancelled. A flood of small blocks
    would else leave them to the process for ever. Return where the C library is another one."""
    library = _library()
    mallinfo, trim = getattr(library, "mallinfo2", None), getattr(library, "malloc_trim", None)
    if mallinfo is None or trim is None:
        return
    mallinfo.restype = _Mallinfo
    blocks = FreeBlocks()

    def look() -> None:
        if blocks.are_many(mallinfo().fordblks):
            trim(_FREE_BYTES)

    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.to_thread(look)  # it may take milliseconds


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
