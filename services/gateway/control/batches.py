"""Files, batches and work of the control plane, over gRPC."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

import grpc.aio

from antiphon.v1 import batches_pb2, batches_pb2_grpc
from services.common.channels import ChannelPool
from services.common.errors import Fault, TimedOut, Unavailable, WorkerLost
from services.common.grpc_errors import error_from_rpc
from services.gateway.batches.records import Batch, BatchError, BatchRequest, File, Page

_TIMEOUT_S = 15.0
_RETRY_S = 2.0
T = TypeVar("T")


class ControlBatches:
    """Records of services/gateway/batches/records.py, and what runners ask for. All calls raise Unavailable while the
    control plane is away."""

    def __init__(self, address: str, token: str, channels: ChannelPool) -> None:
        self._address = address
        self._channels = channels
        self._metadata = (("authorization", f"Bearer {token}"),)

    async def begin_file(self, tenant: str, filename: str, purpose: str, id: str = "") -> tuple[File, int]:
        request = batches_pb2.BeginFileRequest(tenant=tenant, filename=filename, purpose=purpose, id=id)
        begun = await self._call(self._stub.BeginFile(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return file_of(begun.file), begun.max_bytes

    async def complete_file(
        self, tenant: str, id: str, size_bytes: int, expires_after_s: int, purpose: str = ""
    ) -> File:
        request = batches_pb2.CompleteFileRequest(
            tenant=tenant, file_id=id, bytes=size_bytes, expires_after_s=expires_after_s, purpose=purpose
        )
        done = await self._call(self._stub.CompleteFile(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return file_of(done.file)

    async def file(self, tenant: str, id: str) -> File:
        request = batches_pb2.GetFileRequest(tenant=tenant, file_id=id)
        found = await self._call(self._stub.GetFile(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return file_of(found.file)

    async def files(self, tenant: str, page: Page, purpose: str) -> tuple[Sequence[File], bool]:
        request = batches_pb2.ListFilesRequest(tenant=tenant, page=_page(page), purpose=purpose)
        found = await self._call(self._stub.ListFiles(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return [file_of(file) for file in found.files], found.has_more

    async def delete_file(self, tenant: str, id: str) -> None:
        request = batches_pb2.DeleteFileRequest(tenant=tenant, file_id=id)
        await self._call(self._stub.DeleteFile(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def create_batch(self, request: BatchRequest) -> Batch:
        asked = batches_pb2.CreateBatchRequest(
            tenant=request.tenant,
            key_id=request.key_id,
            endpoint=request.endpoint,
            input_file_id=request.input_file_id,
            window_s=request.window_s,
            metadata=request.metadata,
            output_expires_after_s=request.output_expires_after_s,
        )
        made = await self._call(self._stub.CreateBatch(asked, metadata=self._metadata, timeout=_TIMEOUT_S))
        return batch_of(made.batch)

    async def batch(self, tenant: str, id: str) -> Batch:
        request = batches_pb2.GetBatchRequest(tenant=tenant, batch_id=id)
        found = await self._call(self._stub.GetBatch(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return batch_of(found.batch)

    async def batches(self, tenant: str, page: Page) -> tuple[Sequence[Batch], bool]:
        request = batches_pb2.ListBatchesRequest(tenant=tenant, page=_page(page))
        found = await self._call(self._stub.ListBatches(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return [batch_of(batch) for batch in found.batches], found.has_more

    async def cancel_batch(self, tenant: str, id: str) -> Batch:
        request = batches_pb2.CancelBatchRequest(tenant=tenant, batch_id=id)
        cancelled = await self._call(self._stub.CancelBatch(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return batch_of(cancelled.batch)

    async def take(self, runner: str, max_lines: int, max_jobs: int) -> batches_pb2.TakeWorkResponse:
        request = batches_pb2.TakeWorkRequest(runner=runner, max_lines=max_lines, max_jobs=max_jobs)
        return await self._call(self._stub.TakeWork(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def keep(
        self, runner: str, lines: Mapping[str, Iterable[int]], job_batch_ids: Iterable[str]
    ) -> Sequence[str]:
        """Say that the runner lives, and all that it holds. Return the batches whose lines are to end."""
        request = batches_pb2.KeepWorkRequest(
            runner=runner,
            lines=[batches_pb2.HeldLines(batch_id=id, numbers=numbers) for id, numbers in lines.items()],
            job_batch_ids=job_batch_ids,
        )
        kept = await self._call(self._stub.KeepWork(request, metadata=self._metadata, timeout=_TIMEOUT_S))
        return kept.stopped_batch_ids

    async def give_back(self, runner: str, lines: Sequence[batches_pb2.ReturnedLine]) -> None:
        request = batches_pb2.ReturnLinesRequest(runner=runner, lines=lines)
        await self._call(self._stub.ReturnLines(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def store(self, runner: str, batch_id: str, name: str, results: Sequence[batches_pb2.Result]) -> int:
        """Return how many results were taken: those of lines that the runner still holds."""
        request = batches_pb2.StoreResultsRequest(runner=runner, batch_id=batch_id, object=name, results=results)
        return (await self._call(self._stub.StoreResults(request, metadata=self._metadata, timeout=_TIMEOUT_S))).taken

    async def add_lines(self, runner: str, batch_id: str, first: int, lines: Sequence[batches_pb2.InputLine]) -> None:
        """Raise Gone where the runner does not hold the batch's job any more. So do the calls below."""
        request = batches_pb2.AddLinesRequest(runner=runner, batch_id=batch_id, first_number=first, lines=lines)
        await self._call(self._stub.AddLines(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def end_validation(
        self, runner: str, batch_id: str, errors: Sequence[BatchError], lines: int, model: str
    ) -> None:
        told = [
            batches_pb2.BatchError(code=each.code, message=each.message, param=each.param, line=each.line)
            for each in errors
        ]
        request = batches_pb2.EndValidationRequest(
            runner=runner, batch_id=batch_id, errors=told, lines=lines, model=model
        )
        await self._call(self._stub.EndValidation(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def lines(self, runner: str, batch_id: str) -> AsyncIterator[batches_pb2.ListedLine]:
        """Yield the lines of a batch that ends: those with a result in the order of the objects, then the others."""
        request = batches_pb2.ListLinesRequest(runner=runner, batch_id=batch_id)
        call = self._stub.ListLines(request, metadata=self._metadata)
        with _known_errors():
            async for message in call:
                for line in message.lines:
                    yield line

    async def end_batch(self, request: batches_pb2.EndBatchRequest) -> None:
        await self._call(self._stub.EndBatch(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    async def removed(self, runner: str, *, batch_id: str = "", file_ids: Sequence[str] = ()) -> None:
        request = batches_pb2.RemovedRequest(runner=runner, batch_id=batch_id, file_ids=file_ids)
        await self._call(self._stub.Removed(request, metadata=self._metadata, timeout=_TIMEOUT_S))

    @property
    def _stub(self) -> batches_pb2_grpc.BatchesAsyncStub:
        make: Callable[[grpc.aio.Channel], batches_pb2_grpc.BatchesAsyncStub] = batches_pb2_grpc.BatchesStub  # pyright: ignore[reportAssignmentType]
        return self._channels.stub(self._address, make)

    async def _call(self, call: Awaitable[T]) -> T:
        with _known_errors():
            return await call


@contextmanager
def _known_errors() -> Generator[None]:
    try:
        yield
    except grpc.aio.AioRpcError as error:
        known = error_from_rpc(error, "control plane")
        if isinstance(known, WorkerLost | TimedOut | Fault):
            raise Unavailable(
                "Files and batches are away at the moment.", code="batches_unavailable", retry_after_s=_RETRY_S
            ) from error
        raise known from None


def file_of(file: batches_pb2.File) -> File:
    return File(file.id, file.filename, file.purpose, file.bytes, file.created_unix_s, file.expires_unix_s)


def batch_of(batch: batches_pb2.Batch) -> Batch:
    return Batch(
        id=batch.id,
        endpoint=batch.endpoint,
        input_file_id=batch.input_file_id,
        window_s=batch.window_s,
        status=status_of(batch.status),
        created_unix_s=batch.created_unix_s,
        expires_unix_s=batch.expires_unix_s,
        output_file_id=batch.output_file_id,
        error_file_id=batch.error_file_id,
        errors=[BatchError(each.code, each.message, each.param, each.line) for each in batch.errors],
        metadata=dict(batch.metadata),
        lines_total=batch.lines_total,
        lines_completed=batch.lines_completed,
        lines_failed=batch.lines_failed,
        unix_s_of_status={
            status_of(batches_pb2.BatchStatus.ValueType(status)): unix_s
            for status, unix_s in batch.unix_s_of_status.items()
        },
        model=batch.model,
    )


def status_of(status: batches_pb2.BatchStatus.ValueType) -> str:
    return batches_pb2.BatchStatus.Name(status).removeprefix("BATCH_STATUS_").lower()


def _page(page: Page) -> batches_pb2.Page:
    return batches_pb2.Page(after=page.after, limit=page.limit, oldest_first=page.oldest_first)
