"""Makes the C library give large blocks back to the system as soon as they are freed.

By default glibc raises the size from which a block has pages of its own, up to 32 MiB, whenever such a block is freed.
Smaller ones come from heaps, one for each thread, which keep what is freed: a budget of memory would not hold.
"""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
_OWN_PAGES_BYTES = 256 * 1024
_HEAPS = 2


def give_back_large_blocks() -> None:
    """Call before threads start. Do nothing where the C library is another one."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_BYTES)
        mallopt(_M_ARENA_MAX, _HEAPS)
