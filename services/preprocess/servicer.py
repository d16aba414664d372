"""The Preprocess service: translates protos to calls of the preparer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any, TypeVar

from antiphon.v1 import common_pb2, preprocess_pb2, preprocess_pb2_grpc
from services.common.deadlines import by_this_clock
from services.common.errors import AntiphonError, BadInput, NotFound, TimedOut, TooLarge
from services.common.memory_budget import Hold
from services.common.queues import SlotKeeper
from services.common.telemetry.logs import set_request_id
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import serve_blob
from services.preprocess import metrics
from services.preprocess.features import MediaTokens
from services.preprocess.limits import MediaLimits
from services.preprocess.memory import FILE_COPIES
from services.preprocess.messages import cut_responses, response_of
from services.preprocess.parts import inline_indices
from services.preprocess.preparer import Preparer
from services.preprocess.recordings import Recordings

Request = TypeVar("Request")


class PreprocessServicer(preprocess_pb2_grpc.PreprocessServicer):
    """Serves calls that hold a lease of `keeper`. `address` is the owner in the references to features."""

    def __init__(
        self,
        preparer: Preparer,
        recordings: Recordings,
        store: BlobStore,
        keeper: SlotKeeper,
        tokens: MediaTokens,
        limits: MediaLimits,
        *,
        fingerprint: str,
        model: str,
        address: str,
        receive_timeout_s: float,
    ) -> None:
        self._preparer = preparer
        self._recordings = recordings
        self._store = store
        self._keeper = keeper
        self._tokens = tokens
        self._limits = limits
        self._fingerprint = fingerprint
        self._model = model
        self._address = address
        self._receive_timeout_s = receive_timeout_s

    async def Prepare(
        self, request_iterator: AsyncIterator[preprocess_pb2.PrepareRequest], context: Any
    ) -> preprocess_pb2.PrepareResponse:
        try:
            return await self._prepare(request_iterator, context)
        except AntiphonError as error:
            metrics.ERRORS.labels(error.code).inc()
            raise
        except Exception:
            metrics.ERRORS.labels("internal_error").inc()
            raise

    async def _prepare(
        self, requests: AsyncIterator[preprocess_pb2.PrepareRequest], context: Any
    ) -> preprocess_pb2.PrepareResponse:
        first = await self._next(requests)
        if first is None or first.WhichOneof("part") != "start":
            raise BadInput("The first message of Prepare must be a start.")
        start = first.start
        set_request_id(start.context.request_id)
        by_this_clock(start.context, context)
        with self._keeper.open(start.lease.lease_id) as free_slot:
            self._check_start(start.model, start.context.request_id)
            try:
                async with (
                    asyncio.timeout(_seconds_left(start.context.deadline_unix_ms)),
                    self._preparer.files_of(start) as files,
                ):
                    inline = await self._receive_inline(start, requests, files)
                    with metrics.PREPARE_SECONDS.time():
                        prepared = await self._preparer.prepare(start, inline, files, free_slot)
            except TimeoutError:
                raise TimedOut("The request's deadline passed while its media was prepared.") from None
            return response_of(prepared, self._tokens, self._fingerprint, self._address)

    async def Cut(
        self, request_iterator: AsyncIterator[preprocess_pb2.CutRequest], context: Any
    ) -> AsyncIterator[preprocess_pb2.CutResponse]:
        try:
            async with aclosing(self._cut(request_iterator, context)) as responses:
                async for response in responses:
                    yield response
        except AntiphonError as error:
            metrics.ERRORS.labels(error.code).inc()
            raise
        except Exception:
            metrics.ERRORS.labels("internal_error").inc()
            raise

    async def _cut(
        self, requests: AsyncIterator[preprocess_pb2.CutRequest], context: Any
    ) -> AsyncGenerator[preprocess_pb2.CutResponse]:
        first = await self._next(requests)
        if first is None or first.WhichOneof("part") != "start":
            raise BadInput("The first message of Cut must be a start.")
        start = first.start
        tenant, request_id = start.context.tenant, start.context.request_id
        set_request_id(request_id)
        by_this_clock(start.context, context)
        with self._keeper.open(start.lease.lease_id):
            self._check_start(start.model, request_id)
            async with self._recordings.receive(tenant, start.path) as recording:
                while (request := await self._next(requests)) is not None:
                    if request.WhichOneof("part") != "chunk":
                        raise BadInput("After its start, Cut takes only chunks of the file.")
                    await recording.add(request.chunk)
                pieces = self._recordings.pieces(
                    recording, tenant=tenant, request_id=request_id, param=start.path, piece_s=start.piece_s
                )
                end = 0
                async with aclosing(pieces):
                    async for piece in pieces:
                        end += piece.samples.size
                        if end > start.from_sample:
                            for response in cut_responses(piece):
                                yield response

    def _check_start(self, model: str, request_id: str) -> None:
        if model != self._model:
            raise NotFound(f"This worker serves {self._model}.", code="model_not_found", param="model")
        if not request_id:
            raise BadInput("The request has no id.", param="context.request_id")

    async def _next(self, requests: AsyncIterator[Request]) -> Request | None:
        try:
            async with asyncio.timeout(self._receive_timeout_s):
                return await anext(aiter(requests), None)
        except TimeoutError:
            raise TimedOut("The request's inline media did not arrive in time.") from None

    async def _receive_inline(
        self, start: preprocess_pb2.PrepareStart, requests: AsyncIterator[preprocess_pb2.PrepareRequest], files: Hold
    ) -> dict[int, bytearray]:
        """Return the inline files, each chunk read once there is memory for it."""
        wanted = inline_indices(start.messages)
        received: dict[int, bytearray] = {index: bytearray() for index in wanted}
        total = 0
        while (request := await self._next(requests)) is not None:
            chunk = request.chunk
            if request.WhichOneof("part") != "chunk" or chunk.inline_index not in received:
                raise BadInput("After its start, Prepare takes only chunks of the inline media that the start names.")
            blob = received[chunk.inline_index]
            total += len(chunk.data)
            param = wanted[chunk.inline_index]
            if len(blob) + len(chunk.data) > self._limits.item_bytes:
                raise TooLarge(
                    f"The file has more than {self._limits.item_bytes} bytes. Send a smaller one.", param=param
                )
            if total > self._limits.request_bytes:
                raise TooLarge(
                    f"The request's media has more than {self._limits.request_bytes} bytes together. Send less.",
                    param=param,
                )
            await files.grow(FILE_COPIES * len(chunk.data))
            blob += chunk.data
        return received

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        async for response in serve_blob(self._store, request):
            yield response

    async def Release(self, request: common_pb2.ReleaseRequest, context: Any) -> common_pb2.ReleaseResponse:
        return common_pb2.ReleaseResponse(decode_price_s=self._preparer.release(request.request_id))


def _seconds_left(deadline_unix_ms: int) -> float | None:
    return max(0.0, deadline_unix_ms / 1000 - time.time()) if deadline_unix_ms else None
