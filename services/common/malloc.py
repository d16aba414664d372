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


async def give_back_free_blocks() -> None:
    """Give the free pages inside the heaps back whenever there are many, until it is cancelled. A flood of small blocks
    would else leave them to the process for ever. Return where the C library is another one."""
    library = _library()
    mallinfo, trim = getattr(library, "mallinfo2", None), getattr(library, "malloc_trim", None)
    if mallinfo is None or trim is None:
        return
    mallinfo.restype = _Mallinfo

    def look() -> None:
        if mallinfo().fordblks > _FREE_BYTES:
            trim(_FREE_BYTES)

    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        await asyncio.to_thread(look)  # it may take milliseconds


def _library() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
