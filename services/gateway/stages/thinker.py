"""The client of the thinker service: Generate and Release."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc.aio

from antiphon.v1 import common_pb2, thinker_pb2, thinker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata


class ThinkerClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def generate(
        self, address: str, request: thinker_pb2.GenerateRequest, timeout_s: float
    ) -> AsyncGenerator[thinker_pb2.GenerateResponse]:
        """Yield the answer as it is generated. Leaving the iteration cancels the call. Raise an AntiphonError."""
        stub = thinker_pb2_grpc.ThinkerStub(self._channels.get(address))
        call = stub.Generate(request, timeout=timeout_s, metadata=outgoing_metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "thinker") from None
        finally:
            call.cancel()

    async def release(self, address: str, request_id: str, timeout_s: float) -> None:
        stub = thinker_pb2_grpc.ThinkerStub(self._channels.get(address))
        try:
            await stub.Release(common_pb2.ReleaseRequest(request_id=request_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "thinker") from None
