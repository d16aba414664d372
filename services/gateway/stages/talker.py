"""The client of the talker service: Speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import grpc.aio

from antiphon.v1 import talker_pb2, talker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata

_Call = grpc.aio.StreamStreamCall[talker_pb2.SpeakRequest, talker_pb2.SpeakResponse]


class TalkerClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def speak(
        self, address: str, requests: AsyncGenerator[talker_pb2.SpeakRequest], timeout_s: float
    ) -> AsyncGenerator[talker_pb2.SpeakResponse]:
        """Yield speech as it is made. Leaving the iteration cancels the call and closes `requests`.

        Raise an AntiphonError.
        """
        stub = talker_pb2_grpc.TalkerStub(self._channels.get(address))
        call = stub.Speak(timeout=timeout_s, metadata=outgoing_metadata())
        # gRPC would send the requests in a task of its own, and leave it waiting where the talker ends the call first.
        sending = asyncio.create_task(_send(call, requests), name="speak requests")
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talker") from None
        finally:
            call.cancel()
            sending.cancel()
            await asyncio.wait((sending,))


async def _send(call: _Call, requests: AsyncGenerator[talker_pb2.SpeakRequest]) -> None:
    """Send the requests until they or the call end. The responses tell how the call ended."""
    async with aclosing(requests):
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async for request in requests:
                await call.write(request)
            await call.done_writing()
