"""Makes a batch's files of its results: those that are answers, and those that are errors."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass

from antiphon.v1 import batches_pb2
from services.gateway import metrics
from services.gateway.batches.custom_id import read_custom_id
from services.gateway.batches.line import CANCELLED, EXPIRED, unanswered
from services.gateway.batches.object_store import ObjectStore, ObjectWriter, file_object
from services.gateway.batches.records import BATCH_OUTPUT
from services.gateway.control.batches import ControlBatches
from services.gateway.memory import GatewayMemory


@dataclass(slots=True)
class _Stretch:
    """Results that follow each other in one object and belong into one file."""

    object: str
    offset: int
    bytes: int
    is_error: bool

    def takes(self, line: batches_pb2.ListedLine) -> bool:
        if (self.object, self.is_error) != (line.object, line.is_error) or self.offset + self.bytes != line.offset:
            return False
        self.bytes += line.bytes
        return True


class _Files:
    """The two files. One is begun with its first line, so that there is none without lines."""

    def __init__(self, store: ObjectStore, stack: AsyncExitStack, job: batches_pb2.Job) -> None:
        self._store = store
        self._stack = stack
        self._ids = {False: job.output_file_id, True: job.error_file_id}
        self.writers: dict[bool, ObjectWriter] = {}

    async def writer(self, *, is_error: bool) -> ObjectWriter:
        if is_error not in self.writers:
            writing = self._store.writing(file_object(self._ids[is_error]))
            self.writers[is_error] = await self._stack.enter_async_context(writing)
        return self.writers[is_error]

    def bytes(self, *, is_error: bool) -> int:
        return self.writers[is_error].bytes if is_error in self.writers else 0


async def finalize(
    runner: str, job: batches_pb2.Job, control: ControlBatches, store: ObjectStore, memory: GatewayMemory
) -> None:
    """Make the files, and let the batch end. Raise Gone where another runner does so by now, Unavailable, and Capacity
    where a line found no room in memory in time."""
    error = EXPIRED if job.ending == batches_pb2.BATCH_STATUS_EXPIRED else CANCELLED
    async with AsyncExitStack() as stack:
        files = _Files(store, stack, job)
        stretch: _Stretch | None = None
        async for line in control.lines(runner, job.batch.id):
            if stretch is not None and stretch.takes(line):
                continue
            await _copy(stretch, files, store)
            stretch = None
            if line.object:
                stretch = _Stretch(line.object, line.offset, line.bytes, line.is_error)
            else:
                file = file_object(job.batch.input_file_id)
                custom_id = await read_custom_id(store, file, line.offset, line.bytes, memory, job.batch.tenant)
                await (await files.writer(is_error=True)).write(unanswered(custom_id, error).json)
        await _copy(stretch, files, store)
    output_bytes, error_bytes = (files.bytes(is_error=is_error) for is_error in (False, True))
    await control.end_batch(
        batches_pb2.EndBatchRequest(
            runner=runner,
            batch_id=job.batch.id,
            output_file_id=job.output_file_id,
            error_file_id=job.error_file_id,
            output_bytes=output_bytes,
            error_bytes=error_bytes,
        )
    )
    metrics.FILES.labels(BATCH_OUTPUT).inc(bool(output_bytes) + bool(error_bytes))


async def _copy(stretch: _Stretch | None, files: _Files, store: ObjectStore) -> None:
    if stretch is not None:
        writer = await files.writer(is_error=stretch.is_error)
        async for chunk in store.chunks(stretch.object, stretch.offset, stretch.bytes):
            await writer.write(chunk)
