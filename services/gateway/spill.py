"""Room on disk for inline media whose prompt is prepared: a temporary file for each request, without a name."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from services.gateway import metrics

# Errors of the disk are logged at most this often.
_LOG_EVERY_S = 60.0

logger = logging.getLogger(__name__)


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
        size = sum(map(len, files))
        if self.used_bytes + size > self._max_bytes:
            metrics.SPILL_REFUSED.inc()
            return None
        self._use(size)
        file: IO[bytes] | None = None
        try:
            file = await asyncio.to_thread(self._write, files)
        except OSError as error:
            metrics.SPILL_REFUSED.inc()
            self._log(error)
        finally:
            if file is None:
                self._use(-size)
        return DiskFile(self, file, size) if file is not None else None

    def _write(self, files: Sequence[bytes | bytearray]) -> IO[bytes]:
        if self._folder is not None:
            self._folder.mkdir(mode=0o700, exist_ok=True)  # what cleans temporary folders may have removed it
        file = tempfile.TemporaryFile(prefix="antiphon-spill-", dir=self._folder, buffering=0)  # noqa: SIM115
        try:
            for data in files:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
        except BaseException:
            file.close()
            raise
        return file

    def free(self, size: int) -> None:
        self._use(-size)

    def _use(self, size: int) -> None:
        self.used_bytes += size
        metrics.SPILL_BYTES.set(self.used_bytes)

    def _log(self, error: OSError) -> None:
        if time.monotonic() - self._logged_s >= _LOG_EVERY_S:
            self._logged_s = time.monotonic()
            logger.warning("inline media stays in memory: %s", error)


class DiskFile:
    """The bytes of one request on disk."""

    def __init__(self, disk: SpillDisk, file: IO[bytes], size: int) -> None:
        self._disk = disk
        self._file = file
        self._size = size
        self._reads = 0
        self._closed = False

    async def read(self, offset: int, size: int) -> bytes:
        reading = asyncio.ensure_future(asyncio.to_thread(self._read, offset, size))
        self._reads += 1
        reading.add_done_callback(self._read_ended)
        return await asyncio.shield(reading)

    def _read_ended(self, reading: asyncio.Future[bytes]) -> None:
        self._reads -= 1
        if not reading.cancelled():
            reading.exception()  # whoever still waits gets it
        self._close_unread()

    def _read(self, offset: int, size: int) -> bytes:
        data = os.pread(self._file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{len(data)} of {size} bytes were read back")
        return data

    def close(self) -> None:
        """Free the room. Doing so twice is harmless."""
        if not self._closed:
            self._closed = True
            self._disk.free(self._size)
            self._close_unread()

    def _close_unread(self) -> None:
        # Not under a thread that reads it: its number would name another file.
        if self._closed and not self._reads:
            self._file.close()
