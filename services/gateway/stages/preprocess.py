"""The client of the preprocess service: Prepare and Release."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import grpc.aio

from antiphon.v1 import common_pb2, preprocess_pb2, preprocess_pb2_grpc
from services.common.channels import CHUNK_BYTES, ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata


class PreprocessClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def prepare(
        self, address: str, start: preprocess_pb2.PrepareStart, inline: Sequence[bytes], timeout_s: float
    ) -> preprocess_pb2.PrepareResponse:
        """Send the messages, then the inline media in chunks. Raise an AntiphonError."""
        stub = preprocess_pb2_grpc.PreprocessStub(self._channels.get(address))
        try:
            return await stub.Prepare(_requests(start, inline), timeout=timeout_s, metadata=outgoing_metadata())
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "preprocess") from None

    async def release(self, address: str, request_id: str, timeout_s: float) -> None:
        stub = preprocess_pb2_grpc.PreprocessStub(self._channels.get(address))
        try:
            await stub.Release(common_pb2.ReleaseRequest(request_id=request_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "preprocess") from None


async def _requests(
    start: preprocess_pb2.PrepareStart, inline: Sequence[bytes]
) -> AsyncIterator[preprocess_pb2.PrepareRequest]:
    yield preprocess_pb2.PrepareRequest(start=start)
    for index, data in enumerate(inline):
        for offset in range(0, len(data), CHUNK_BYTES):
            chunk = preprocess_pb2.InlineChunk(inline_index=index, data=data[offset : offset + CHUNK_BYTES])
            yield preprocess_pb2.PrepareRequest(chunk=chunk)
