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
from services.common.errors import MOVED, AntiphonError, BadInput, Unavailable, WorkerLost
from services.common.interceptors import CallInterceptor
from services.common.queues.tickets import Grant, QueueName, TicketSpec
from services.gateway.stages.talker import TalkerClient
from services.gateway.turn.events import SpeechStarted
from services.gateway.turn.intent import FieldNames, Intent, Principal, SpeechOptions
from services.gateway.turn.model import Model, ModelKind
from services.gateway.turn.prompt import Prepared
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.worker_calls import SpeakCall, SpokenText

STARTED = talker_pb2.SpeakResponse(started=talker_pb2.SpeakStarted(sample_rate=24_000, codebooks=4, seed=9))
REQUEST = TurnRequest(
    request_id="req_1",
    principal=Principal("acme", "acme"),
    intent=Intent(FieldNames("voice", "modalities"), arrived_s=0.0, messages=[]),
    model=Model("m", ModelKind.INSTRUCT, 1000),
    deadline_unix_ms=0,
)


def call(address: str) -> SpeakCall:
    queue, spec = QueueName("talker", "m"), TicketSpec("req_1", "acme")
    grant = Grant(queue, spec, "ticket", "lease", "worker", address, grant_timeout_s=5, arrival_us=0, waited_s=0)
    return SpeakCall(grant, 0, REQUEST, 10, SpeechOptions("ethan"), Prepared((1, 2)), None, [3, 4], seed=9)


class Talker(talker_pb2_grpc.TalkerServicer):
    """Read the start, answer it if `accepts`, then end the call with `error` or OK."""

    def __init__(self, error: AntiphonError | None, *, accepts: bool) -> None:
        self._error = error
        self._accepts = accepts

    async def Speak(
        self, request_iterator: AsyncIterator[talker_pb2.SpeakRequest], context: Any
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        start = (await anext(aiter(request_iterator))).start
        assert (start.context.request_id, start.lease.lease_id, start.model) == ("req_1", "lease", "m")
        assert (list(start.prompt_token_ids), list(start.delivered_codes)) == ([1, 2], [3, 4])
        assert (start.voice, start.sampling.seed, start.HasField("hidden_states")) == ("ethan", 9, False)
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
    """Yield tokens that never end."""

    def __init__(self) -> None:
        self.closed = False

    async def tokens(self) -> AsyncGenerator[SpokenText]:
        try:
            yield SpokenText((5,))
            await asyncio.Event().wait()
        finally:
            self.closed = True


class Flood(Text):
    """Yield tokens without a pause."""

    async def tokens(self) -> AsyncGenerator[SpokenText]:
        try:
            while True:
                yield SpokenText((5,))
        finally:
            self.closed = True


async def test_the_talkers_status_survives_a_write_that_meets_the_end() -> None:
    """grpc.aio's own `write` would replace it."""
    channels, moved = ChannelPool(), Unavailable("on with another", code=MOVED)
    async with serving(Talker(moved, accepts=True)) as address:
        for _ in range(30):
            text = Flood()
            with pytest.raises(Unavailable) as caught:
                async with aclosing(TalkerClient(channels).speak(call(address), text.tokens())) as events:
                    assert [event async for event in events] == [SpeechStarted(24_000, 0, 4, 9)]
            assert caught.value.code == MOVED
            assert text.closed
        await channels.close()


@pytest.mark.parametrize(("error", "accepts"), [(BadInput("no"), False), (WorkerLost("gone"), True), (None, True)])
async def test_texts_are_closed_when_the_talker_ends_the_call(error: AntiphonError | None, accepts: bool) -> None:
    channels, text = ChannelPool(), Text()
    caught: AntiphonError | None = None
    async with serving(Talker(error, accepts=accepts)) as address:
        try:
            async with aclosing(TalkerClient(channels).speak(call(address), text.tokens())) as events:
                async for event in events:
                    assert event == SpeechStarted(24_000, 0, 4, 9)
        except AntiphonError as raised:
            caught = raised
        assert text.closed
        await channels.close()
    assert type(caught) is type(error)
