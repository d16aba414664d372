"""The client of Speak against a talker that ends the call first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import grpc.aio
import pytest

from antiphon.v1 import talker_pb2, talker_pb2_grpc
from services.common.channels import ChannelPool
from services.common.errors import AntiphonError, BadInput, WorkerLost
from services.common.interceptors import CallInterceptor
from services.gateway.stages.talker import TalkerClient

START = talker_pb2.SpeakRequest(start=talker_pb2.SpeakStart(model="m"))
STARTED = talker_pb2.SpeakResponse(started=talker_pb2.SpeakStarted(codebooks=4))


class Talker(talker_pb2_grpc.TalkerServicer):
    """Read the start, answer it if `accepts`, then end the call with `error` or OK."""

    def __init__(self, error: AntiphonError | None, *, accepts: bool) -> None:
        self._error = error
        self._accepts = accepts

    async def Speak(
        self, request_iterator: AsyncIterator[talker_pb2.SpeakRequest], context: Any
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        assert await anext(aiter(request_iterator)) == START
        if self._accepts:
            yield STARTED
        if self._error is not None:
            raise self._error


@asynccontextmanager
async def serving(talker: Talker) -> AsyncGenerator[str]:
    """Yield its address."""
    server = grpc.aio.server(interceptors=(CallInterceptor(),))
    talker_pb2_grpc.add_TalkerServicer_to_server(talker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(0)


class Text:
    """Yield requests that never end."""

    def __init__(self) -> None:
        self.closed = False

    async def requests(self) -> AsyncGenerator[talker_pb2.SpeakRequest]:
        try:
            yield START
            await asyncio.Event().wait()
        finally:
            self.closed = True


@pytest.mark.parametrize(("error", "accepts"), [(BadInput("no"), False), (WorkerLost("gone"), True), (None, True)])
async def test_requests_are_closed_when_the_talker_ends_the_call(error: AntiphonError | None, accepts: bool) -> None:
    channels, text = ChannelPool(), Text()
    caught: AntiphonError | None = None
    async with serving(Talker(error, accepts=accepts)) as address:
        try:
            async with aclosing(TalkerClient(channels).speak(address, text.requests(), 10)) as responses:
                async for response in responses:
                    assert response == STARTED
        except AntiphonError as raised:
            caught = raised
        assert text.closed
        await channels.close()
    assert type(caught) is type(error)
