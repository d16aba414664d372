"""The client of the talker service: Speak."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from typing import Any

import grpc.aio

from antiphon.v1 import talker_pb2, talker_pb2_grpc
from antiphon.v1.talker_pb2 import SpeakResponse
from services.common.channels import ChannelPool
from services.common.grpc_errors import error_from_rpc
from services.common.telemetry.tracing import outgoing_metadata
from services.gateway.stages import from_wire, to_wire
from services.gateway.stages.responses import END, raise_for_status, receiver
from services.gateway.turn.worker_calls import SpeakCall, SpeakEvent, SpokenText

_Rpc = grpc.aio.StreamStreamCall[talker_pb2.SpeakRequest, SpeakResponse]


class TalkerClient:
    def __init__(self, channels: ChannelPool) -> None:
        self._channels = channels

    async def speak(self, call: SpeakCall, texts: AsyncGenerator[SpokenText]) -> AsyncGenerator[SpeakEvent]:
        """Yield speech as it is made. Leaving the iteration cancels the call and closes `texts`.

        Raise an AntiphonError.
        """
        stub = self._channels.stub(call.grant.address, talker_pb2_grpc.TalkerStub)
        rpc = stub.Speak(timeout=call.timeout_s, metadata=outgoing_metadata())
        # gRPC would send the requests in a task of its own, and leave it waiting where the talker ends the call first.
        sending = asyncio.create_task(_send(rpc, to_wire.speak_request(call), texts), name="speak requests")
        try:
            receive = await receiver(rpc)
            while (message := await receive()) is not END:
                if (event := from_wire.speak_event(SpeakResponse.FromString(message))) is not None:
                    yield event
            await raise_for_status(rpc)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talker") from None
        finally:
            rpc.cancel()
            sending.cancel()
            await asyncio.wait((sending,))


async def _send(rpc: _Rpc, start: talker_pb2.SpeakRequest, texts: AsyncGenerator[SpokenText]) -> None:
    """Send the start and the texts until they or the call end. The responses tell how the call ended."""
    async with aclosing(texts):
        with suppress(grpc.aio.AioRpcError, grpc.aio.InternalError, asyncio.InvalidStateError):
            await rpc.write(start)
            async for text in texts:
                await _write(rpc, to_wire.text_request(text))
            await rpc.done_writing()


async def _write(rpc: _Rpc, request: talker_pb2.SpeakRequest) -> None:
    """Write as `rpc.write` does after a call's first response. Where that meets a call that the talker has ended, it
    replaces the talker's status by an INTERNAL of its own; this raises InternalError and leaves the status."""
    core: Any = rpc._cython_call  # pyright: ignore[reportAttributeAccessIssue]
    await core.send_serialized_message(request.SerializeToString())
