"""Speak of the talker service."""

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
        """Speech as it comes; leaving the iteration cancels the call. `requests` are closed with it. Raises
        AntiphonErrors."""
        stub = talker_pb2_grpc.TalkerStub(self._channels.get(address))
        call = stub.Speak(timeout=timeout_s, metadata=outgoing_metadata())
        # grpc would feed the requests in a task that it forgets, still waiting for the next, where the talker ends the
        # call first.
        feeding = asyncio.create_task(_feed(call, requests), name="speak requests")
        try:
            async for response in call:
                yield response
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talker") from None
        finally:
            call.cancel()
            feeding.cancel()
            await asyncio.wait((feeding,))


async def _feed(call: _Call, requests: AsyncGenerator[talker_pb2.SpeakRequest]) -> None:
    """Until the requests end or the call does; how it ended is read from the responses."""
    async with aclosing(requests):
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            async for request in requests:
                await call.write(request)
            await call.done_writing()
