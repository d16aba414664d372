"""Room on disk for inline media whose prompt is prepared: a temporary file for each request, without a name."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TypeVar

from services.gateway import metrics

# Errors of the disk are logged at most this often.
_LOG_EVERY_S = 60.0

logger = logging.getLogger(__name__)
R = TypeVar("R")


class SpillDisk:
    """At most `max_bytes` in `folder`, all requests together; None = the system's for temporary files. A file has no
    name from the start, so that the kernel frees it when the process ends, however that happens."""

    def __init__(self, folder: Path | None, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._logged_s = float("-inf")
        self.used_bytes = 0

    async def write(self, files: Sequence[bytes | bytearray]) -> DiskFile | None:
        """Write the files one after another. Return None where there is no room: they stay in memory."""
        if not self.has_room(sum(map(len, files))):
            return None
        written = await self.open()
        if written is None:
            return None
        try:
            end = 0
            for data in files:
                if not await written.write(end, data):
                    written.close()
                    return None
                end += len(data)
        except BaseException:
            written.close()
            raise
        return written

    async def open(self) -> DiskFile | None:
        """Return a file with nothing in it yet; None = there is no room."""
        try:
            return DiskFile(self, await asyncio.to_thread(self._open))
        except OSError as error:
            self.failed(error)
            return None

    def has_room(self, size: int) -> bool:
        if self.used_bytes + size <= self._max_bytes:
            return True
        metrics.SPILL_REFUSED.inc()
        return False

    def use(self, size: int) -> None:
        """Count so many bytes as used, less than none as free."""
        self.used_bytes += size
        metrics.SPILL_BYTES.set(self.used_bytes)

    def failed(self, error: OSError) -> None:
        metrics.SPILL_REFUSED.inc()
        self._log(error)

    def _open(self) -> IO[bytes]:
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # what cleans temporary folders may have removed it
        return tempfile.TemporaryFile(prefix="antiphon-spill-", dir=self._folder, buffering=0)

    def _log(self, error: OSError) -> None:
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            logger.warning("inline media stays in memory: %s", error)


class DiskFile:
    """The bytes of one request on disk."""

    def __init__(self, disk: SpillDisk, file: IO[bytes]) -> None:
        self._disk = disk
        self._file = file
        self._size = 0
        # Threads that read or write it.
        self._used_by = 0
        self._closed = False

    async def write(self, offset: int, data: bytes | bytearray) -> bool:
        """Write there, at most at the end. Return False where there is no room."""
        more = max(offset + len(data) - self._size, 0)
        if not self._disk.has_room(more):
            return False
        self._size += more
        self._disk.use(more)
        try:
            await self._in_thread(lambda: self._write(offset, data))
        except OSError as error:
            self._disk.failed(error)
            return False
        return True

    async def read(self, offset: int, size: int) -> bytes:
        return await self._in_thread(lambda: self._read(offset, size))

    async def _in_thread(self, work: Callable[[], R]) -> R:
        working = asyncio.ensure_future(asyncio.to_thread(work))
        self._used_by += 1
        working.add_done_callback(self._ended)
        return await asyncio.shield(working)

    def _ended(self, working: asyncio.Future[R]) -> None:
        self._used_by -= 1
        if not working.cancelled():
            working.exception()  # whoever still waits gets it
        self._close_unused()

    def _write(self, offset: int, data: bytes | bytearray) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._file.fileno(), view, offset)
            view, offset = view[written:], offset + written

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{len(data)} of {size} bytes were read back")
        return data

    def close(self) -> None:
        """Free the room. Doing so twice is harmless."""
        if not self._closed:
            self._closed = True
            self._disk.use(-self._size)
            self._close_unused()

    def _close_unused(self) -> None:
        # Not under a thread that uses it: its number would name another file.
        if self._closed and not self._used_by:
            self._file.close()
