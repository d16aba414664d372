"""The memory that a process and its decoders take."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from services.preprocess.decoding.pool import DecodePool

_EVERY_S = 0.05


def resident_bytes(decoders: DecodePool) -> int:
    """Return the private memory of this process and its decoders, and their anonymous files. Of a decoder counts what
    it has beyond the fork server: the rest they share."""
    own = os.getpid()
    total, files = _anonymous_bytes(own), _anonymous_files(own)
    for pid, server in decoders.parents.items():
        total += max(_anonymous_bytes(pid) - _anonymous_bytes(server), 0)
        files |= _anonymous_files(pid)
    return total + sum(files.values())


def _anonymous_bytes(pid: int) -> int:
    """The kernel keeps this count; smaps_rollup, which knows what is shared, walks all pages at each look."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:  # it has just ended
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon:"))


def _anonymous_files(pid: int) -> dict[int, int]:
    """Return the bytes of each open file without a name, by its inode."""
    files: dict[int, int] = {}
    try:
        for link in Path(f"/proc/{pid}/fd").iterdir():
            if str(link.readlink()).startswith("/memfd:"):
                found = link.stat()
                files[found.st_ino] = found.st_blocks * 512
    except OSError:  # it has just ended, or closed one
        pass
    return files


class Watch:
    """`grown_bytes` is the most that the process has taken over what it had before."""

    def __init__(self, decoders: DecodePool) -> None:
        self._decoders = decoders
        self.base_bytes = resident_bytes(decoders)
        self.grown_bytes = 0

    async def _look(self) -> None:
        while True:
            self.grown_bytes = max(self.grown_bytes, resident_bytes(self._decoders) - self.base_bytes)
            await asyncio.sleep(_EVERY_S)

    @classmethod
    @contextmanager
    def running(cls, decoders: DecodePool) -> Generator[Watch]:
        watch = cls(decoders)
        looking = asyncio.create_task(watch._look(), name="watch memory")
        try:
            yield watch
        finally:
            looking.cancel()
