"""The client of the preprocess service: Prepare, Cut and Release."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio

from antiphon.v1 import common_pb2, preprocess_pb2, preprocess_pb2_grpc
from services.common.channels import CHUNK_BYTES, ChannelPool
from services.common.errors import Unavailable
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata
from services.gateway.stages import from_wire, to_wire
from services.gateway.turn.conversation import inline_indices
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.worker_calls import CutCall, CutSamples, PrepareCall

# Until workers of an earlier version may be replaced.
_UPGRADE_S = 5.0


class PreprocessClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def prepare(self, call: PrepareCall) -> Prepared:
        """Send the messages, then the inline media in chunks. Raise an AntiphonError, and whatever reading the media
        raises."""
        stub = self._channels.stub(call.grant.address, preprocess_pb2_grpc.PreprocessStub)
        requests = _Requests(call)
        try:
            response = await stub.Prepare(requests.all(), timeout=call.timeout_s, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "preprocess") from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if requests.failed is None or (task is not None and task.cancelling()):
                raise
            raise requests.failed from None
        return from_wire.prepared(response)

    async def cut(self, call: CutCall) -> AsyncGenerator[CutSamples]:
        """Send the file, then yield the samples of its pieces as they come. Leaving the iteration cancels the call.
        Raise an AntiphonError."""
        stub = self._channels.stub(call.grant.address, preprocess_pb2_grpc.PreprocessStub)
        rpc = stub.Cut(_cut_requests(call), timeout=call.timeout_s, metadata=outgoing_metadata())
        try:
            async for response in rpc:
                yield CutSamples(response.samples, response.ends_piece, response.recording_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise Unavailable(
                    "No preprocess worker that can cut recordings serves this model yet: they are being upgraded.",
                    code="no_worker",
                    retry_after_s=_UPGRADE_S,
                ) from None
            raise error_from_rpc(error, "preprocess") from None
        finally:
            rpc.cancel()

    async def release(self, address: str, request_id: str, timeout_s: float) -> float:
        """See PreprocessStage."""
        stub = self._channels.stub(address, preprocess_pb2_grpc.PreprocessStub)
        try:
            released = await stub.Release(common_pb2.ReleaseRequest(request_id=request_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "preprocess") from None
        return released.decode_price_s


class _Requests:
    """What Prepare is sent. gRPC cancels the call where it can't be read: `failed` is why."""

    def __init__(self, call: PrepareCall) -> None:
        self._call = call
        self.failed: Exception | None = None

    async def all(self) -> AsyncIterator[preprocess_pb2.PrepareRequest]:
        yield preprocess_pb2.PrepareRequest(start=to_wire.prepare_start(self._call))
        intent = self._call.request.intent
        # Files of messages that were dropped stay here.
        for index in sorted(inline_indices(intent.messages)):
            try:
                async for data in intent.inline.chunks(index, CHUNK_BYTES):
                    yield preprocess_pb2.PrepareRequest(chunk=preprocess_pb2.InlineChunk(inline_index=index, data=data))
            except Exception as error:
                self.failed = error
                raise


async def _cut_requests(call: CutCall) -> AsyncIterator[preprocess_pb2.CutRequest]:
    yield preprocess_pb2.CutRequest(start=to_wire.cut_start(call))
    async for data in call.request.intent.inline.chunks(0, CHUNK_BYTES):
        yield preprocess_pb2.CutRequest(chunk=data)
