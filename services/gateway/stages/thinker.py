"""The client of the thinker service: Generate and Release."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import grpc.aio

from antiphon.v1 import common_pb2, thinker_pb2_grpc
from antiphon.v1.thinker_pb2 import GenerateResponse
from services.common.channels import ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata
from services.gateway.stages import from_wire, to_wire
from services.gateway.stages.responses import END, raise_for_status, receiver
from services.gateway.turn.worker_calls import GenerateCall, GenerateEvent


class ThinkerClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def generate(self, call: GenerateCall) -> AsyncGenerator[GenerateEvent]:
        """Yield the answer as it is generated. Leaving the iteration cancels the call. Raise an AntiphonError."""
        stub = self._channels.stub(call.grant.address, thinker_pb2_grpc.ThinkerStub)
        rpc = stub.Generate(to_wire.generate_request(call), timeout=call.timeout_s, metadata=outgoing_metadata())
        try:
            receive = await receiver(rpc)
            while (message := await receive()) is not END:
                if (event := from_wire.generate_event(GenerateResponse.FromString(message))) is not None:
                    yield event
            await raise_for_status(rpc)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "thinker") from None
        finally:
            rpc.cancel()

    async def release(self, address: str, request_id: str, timeout_s: float) -> None:
        stub = self._channels.stub(address, thinker_pb2_grpc.ThinkerStub)
        try:
            await stub.Release(common_pb2.ReleaseRequest(request_id=request_id), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "thinker") from None
