"""Speak of the talker service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import grpc.aio

from antiphon.v1 import talker_pb2, talker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata


class TalkerClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def speak(
        self, address: str, requests: AsyncIterator[talker_pb2.SpeakRequest], timeout_s: float
    ) -> AsyncGenerator[talker_pb2.SpeakResponse]:
        """Speech as it comes; leaving the iteration cancels the call. Raises AntiphonErrors."""
        stub = talker_pb2_grpc.TalkerStub(self._channels.get(address))
        call = stub.Speak(requests, timeout=timeout_s, metadata=outgoing_metadata())
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talker") from None
        finally:
            call.cancel()
