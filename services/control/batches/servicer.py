"""Batches: rows of files and batches for gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import Any

import grpc.aio

from antiphon.v1 import batches_pb2, batches_pb2_grpc
from services.control.batches.batches import Batches
from services.control.batches.files import Files
from services.control.batches.keys import key_in_force
from services.control.batches.limits import BatchLimits
from services.control.batches.results import Result, Results
from services.control.batches.wire import batch_of, error_of, file_of, job_of, line_of, listed_line_of
from services.control.batches.work import ReturnedLine, Work
from services.control.gateway_token import check_gateway_token
from services.control.store.database import Database
from services.control.tenancy.audit import utc_now

Context = grpc.aio.ServicerContext[Any, Any]
_MOST_OF_A_PAGE = 10_000


class BatchesServicer(batches_pb2_grpc.BatchesServicer):
    """`token` is what gateways must show."""

    def __init__(
        self, database: Database, limits: BatchLimits, token: str, now: Callable[[], datetime] = utc_now
    ) -> None:
        self._database = database
        self._files = Files(database, limits, now)
        self._batches = Batches(database, limits, now)
        self._work = Work(database, self._files, limits.lease_s, now)
        self._results = Results(database, now)
        self._limits = limits
        self._token = token
        self._now = now

    async def BeginFile(self, request: batches_pb2.BeginFileRequest, context: Context) -> batches_pb2.BeginFileResponse:
        check_gateway_token(context, self._token)
        row, most = await self._files.begin(request.tenant, request.filename[:255], request.purpose, request.id)
        return batches_pb2.BeginFileResponse(file=file_of(row), max_bytes=most)

    async def CompleteFile(
        self, request: batches_pb2.CompleteFileRequest, context: Context
    ) -> batches_pb2.CompleteFileResponse:
        check_gateway_token(context, self._token)
        row = await self._files.complete(
            request.tenant, request.file_id, request.bytes, request.expires_after_s, request.purpose
        )
        return batches_pb2.CompleteFileResponse(file=file_of(row))

    async def GetFile(self, request: batches_pb2.GetFileRequest, context: Context) -> batches_pb2.GetFileResponse:
        check_gateway_token(context, self._token)
        return batches_pb2.GetFileResponse(file=file_of(await self._files.get(request.tenant, request.file_id)))

    async def ListFiles(self, request: batches_pb2.ListFilesRequest, context: Context) -> batches_pb2.ListFilesResponse:
        check_gateway_token(context, self._token)
        page = request.page
        rows, has_more = await self._files.list(
            request.tenant,
            page.after,
            min(page.limit, _MOST_OF_A_PAGE),
            oldest_first=page.oldest_first,
            purpose=request.purpose,
        )
        return batches_pb2.ListFilesResponse(files=map(file_of, rows), has_more=has_more)

    async def DeleteFile(
        self, request: batches_pb2.DeleteFileRequest, context: Context
    ) -> batches_pb2.DeleteFileResponse:
        check_gateway_token(context, self._token)
        await self._files.delete(request.tenant, request.file_id)
        return batches_pb2.DeleteFileResponse()

    async def CreateBatch(
        self, request: batches_pb2.CreateBatchRequest, context: Context
    ) -> batches_pb2.CreateBatchResponse:
        check_gateway_token(context, self._token)
        row = await self._batches.create(
            request.tenant,
            request.key_id,
            request.endpoint,
            request.input_file_id,
            request.window_s,
            request.metadata,
            request.output_expires_after_s,
        )
        return batches_pb2.CreateBatchResponse(batch=batch_of(row))

    async def GetBatch(self, request: batches_pb2.GetBatchRequest, context: Context) -> batches_pb2.GetBatchResponse:
        check_gateway_token(context, self._token)
        return batches_pb2.GetBatchResponse(batch=batch_of(await self._batches.get(request.tenant, request.batch_id)))

    async def ListBatches(
        self, request: batches_pb2.ListBatchesRequest, context: Context
    ) -> batches_pb2.ListBatchesResponse:
        check_gateway_token(context, self._token)
        page = request.page
        rows, has_more = await self._batches.list(
            request.tenant, page.after, min(page.limit, _MOST_OF_A_PAGE), oldest_first=page.oldest_first
        )
        return batches_pb2.ListBatchesResponse(batches=map(batch_of, rows), has_more=has_more)

    async def CancelBatch(
        self, request: batches_pb2.CancelBatchRequest, context: Context
    ) -> batches_pb2.CancelBatchResponse:
        check_gateway_token(context, self._token)
        row = await self._batches.cancel(request.tenant, request.batch_id)
        return batches_pb2.CancelBatchResponse(batch=batch_of(row))

    async def TakeWork(self, request: batches_pb2.TakeWorkRequest, context: Context) -> batches_pb2.TakeWorkResponse:
        check_gateway_token(context, self._token)
        taken = await self._work.take(request.runner, request.max_lines, request.max_jobs)
        lines: list[batches_pb2.Line] = []
        if taken.lines:
            now = self._now()
            async with self._database.read() as session:
                keys = {id: await key_in_force(session, id, now) for id in {each.batch.key_id for each in taken.lines}}
            lines = [line_of(each, *keys[each.batch.key_id]) for each in taken.lines]
        return batches_pb2.TakeWorkResponse(
            lines=lines,
            jobs=[job_of(job, self._limits.batch_lines) for job in taken.jobs],
            removed_file_ids=taken.removed_file_ids,
            lease_ms=round(self._limits.lease_s * 1000),
            waiting_lines=taken.waiting_lines,
            open_batches=taken.open_batches,
        )

    async def KeepWork(self, request: batches_pb2.KeepWorkRequest, context: Context) -> batches_pb2.KeepWorkResponse:
        check_gateway_token(context, self._token)
        lines = {held.batch_id: set(held.numbers) for held in request.lines}
        stopped = await self._work.keep(request.runner, lines, set(request.job_batch_ids))
        return batches_pb2.KeepWorkResponse(stopped_batch_ids=stopped)

    async def ReturnLines(
        self, request: batches_pb2.ReturnLinesRequest, context: Context
    ) -> batches_pb2.ReturnLinesResponse:
        check_gateway_token(context, self._token)
        await self._work.give_back(
            request.runner,
            [ReturnedLine(line.batch_id, line.number, line.after_ms / 1000, line.has_failed) for line in request.lines],
        )
        return batches_pb2.ReturnLinesResponse()

    async def StoreResults(
        self, request: batches_pb2.StoreResultsRequest, context: Context
    ) -> batches_pb2.StoreResultsResponse:
        check_gateway_token(context, self._token)
        results = [Result(each.number, each.offset, each.bytes, each.is_error) for each in request.results]
        taken = await self._results.store(request.runner, request.batch_id, request.object, results)
        return batches_pb2.StoreResultsResponse(taken=taken)

    async def AddLines(self, request: batches_pb2.AddLinesRequest, context: Context) -> batches_pb2.AddLinesResponse:
        check_gateway_token(context, self._token)
        places = [(line.offset, line.bytes) for line in request.lines]
        await self._results.add_lines(request.runner, request.batch_id, request.first_number, places)
        return batches_pb2.AddLinesResponse()

    async def EndValidation(
        self, request: batches_pb2.EndValidationRequest, context: Context
    ) -> batches_pb2.EndValidationResponse:
        check_gateway_token(context, self._token)
        errors = [error_of(each) for each in request.errors]
        await self._results.end_validation(request.runner, request.batch_id, errors, request.lines, request.model[:255])
        return batches_pb2.EndValidationResponse()

    async def ListLines(
        self, request: batches_pb2.ListLinesRequest, context: Context
    ) -> AsyncIterator[batches_pb2.ListLinesResponse]:
        check_gateway_token(context, self._token)
        async for lines in self._results.lines(request.runner, request.batch_id):
            yield batches_pb2.ListLinesResponse(lines=map(listed_line_of, lines))

    async def EndBatch(self, request: batches_pb2.EndBatchRequest, context: Context) -> batches_pb2.EndBatchResponse:
        check_gateway_token(context, self._token)
        await self._results.end(
            request.runner,
            request.batch_id,
            request.output_file_id,
            request.error_file_id,
            request.output_bytes,
            request.error_bytes,
        )
        return batches_pb2.EndBatchResponse()

    async def Removed(self, request: batches_pb2.RemovedRequest, context: Context) -> batches_pb2.RemovedResponse:
        check_gateway_token(context, self._token)
        if request.batch_id:
            await self._results.removed(request.runner, request.batch_id)
        if request.file_ids:
            await self._files.removed(request.file_ids)
        return batches_pb2.RemovedResponse()
