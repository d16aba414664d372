"""A file on its way from a form into the object store."""

from __future__ import annotations

from contextlib import AsyncExitStack, suppress
from dataclasses import replace

from services.common.errors import AntiphonError, BadInput, TooLarge
from services.gateway import metrics
from services.gateway.batches.object_store import ObjectStore, ObjectWriter, file_object
from services.gateway.batches.records import File, Records
from services.gateway.limits import RequestLimits
from services.gateway.memory import GatewayMemory

_FORM_BYTES = 1 << 20
_UPLOAD_TIMES = 10
"""How much longer a file may take to arrive than another body."""


def upload_limits(limits: RequestLimits, max_file_bytes: int) -> RequestLimits:
    """Return the limits of a form with a file that goes into the store."""
    return replace(
        limits,
        max_body_bytes=max_file_bytes + _FORM_BYTES,
        max_media_bytes=max_file_bytes,
        body_timeout_s=_UPLOAD_TIMES * limits.body_timeout_s,
    )


class Upload:
    """Writes a file into the store, once `begin_file` was told its name and tenant."""

    def __init__(self, records: Records, store: ObjectStore, memory: GatewayMemory, stack: AsyncExitStack) -> None:
        self._records = records
        self._store = store
        self._memory = memory
        self._outer = stack
        # Of the object: it is complete at its end, and discarded where that comes by an exception.
        self._stack = AsyncExitStack()
        stack.push_async_exit(self._stack)
        self._writer: ObjectWriter | None = None
        self._file: File | None = None
        self._tenant = ""
        self._max_bytes = 0

    @property
    def bytes(self) -> int:
        return self._writer.bytes if self._writer is not None else 0

    async def begin_file(self, tenant: str, filename: str, purpose: str, id: str = "") -> File:
        """Make its row, and open its object. Raise Capacity, and what Records.begin_file raises."""
        await self.take_memory(tenant, self._store.buffer_bytes)
        file, self._max_bytes = await self._records.begin_file(tenant, _named(filename), purpose, id)
        self._tenant, self._file = tenant, file
        self._writer = await self._stack.enter_async_context(self._store.writing(file_object(file.id)))
        return file

    async def take_memory(self, tenant: str, size_bytes: int) -> None:
        """Wait for so much, and hold it until the upload is over. Raise Capacity where there was no room in time."""
        if size_bytes > 0:
            memory = await self._outer.enter_async_context(self._memory.request(tenant))
            size_bytes = min(size_bytes, memory.total_bytes)
            await memory.take(size_bytes, most_bytes=size_bytes, what="The file")

    async def write(self, data: bytes) -> None:
        if self._writer is None:
            raise RuntimeError("the file has not begun")
        if self.bytes + len(data) > self._max_bytes:
            raise TooLarge(
                "All files together would be larger than what you may have. Delete some.",
                param="file",
                code="file_limit_reached",
            )
        await self._writer.write(data)

    def check(self, field: str, *, is_there: bool) -> None:
        """Raise BadInput where there is no file, or no byte in it."""
        if not is_there:
            raise BadInput(f"Missing required parameter: '{field}'.", param=field, code="missing_required_parameter")
        if not self.bytes:
            raise BadInput(f"Invalid '{field}': the file is empty.", param=field, code="empty_file")

    async def end(self, expires_after_s: int, purpose: str = "") -> File:
        """Complete the object, and then its row. 0 = it does not expire. `purpose`: "" = that which it began with."""
        await self._stack.aclose()
        if self._file is None:
            raise RuntimeError("the file has not begun")
        file = await self._records.complete_file(self._tenant, self._file.id, self.bytes, expires_after_s, purpose)
        metrics.FILES.labels(file.purpose).inc()
        return file

    async def abandon(self, error: BaseException) -> None:
        """Forget the file, since `error` ended its upload: first its object, since another upload may have its name as
        soon as its row is gone. The row is left where that fails, and forgotten later."""
        await self._stack.__aexit__(type(error), error, error.__traceback__)
        if self._file is not None:
            with suppress(AntiphonError):
                await self._records.delete_file(self._tenant, self._file.id)


def _named(filename: str) -> str:
    """Return what a file is called: no database takes a null character."""
    return filename.replace("\x00", "_") or "file"
