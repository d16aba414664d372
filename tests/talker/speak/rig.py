"""A talker that serves Speak on a real port, in the test's own process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc.aio
import numpy as np
import torch
from grpc.aio import EOF

from antiphon.v1 import common_pb2, talker_pb2, talker_pb2_grpc, thinker_pb2_grpc
from services.common.channels import SERVER_OPTIONS, open_channel
from services.common.errors import NotFound
from services.common.grpc_errors import error_from_rpc
from services.common.interceptors import CallInterceptor
from services.common.queues import QueueClient, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect
from services.common.tensors.codec import tensor_to_bytes
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import serve_blob
from services.talker.checkpoint import SpeechModels
from services.talker.engine import SpeechEngine
from services.talker.servicer import TalkerServicer
from services.talker.settings import TalkerSettings
from tests.fixtures.oracle import OracleResult, TalkerOptions
from tests.fixtures.wait import wait_until
from tests.talker.speech import grids_of

OPTIONS = TalkerOptions(seed=1, max_frames=20)
QUEUE = QueueName("talker", "tiny-talker-servicer")
SLOTS = 2


class HiddenStatesOwner(thinker_pb2_grpc.ThinkerServicer):
    """The part of a thinker that hands out hidden states."""

    def __init__(self) -> None:
        self.blobs = BlobStore(2**20)

    async def Fetch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in serve_blob(self.blobs, request):
            yield response

    async def Generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        raise NotFound("there is no text here")
        yield

    async def Release(self, request: Any, context: Any) -> Any:
        self.blobs.release(request.request_id)
        return common_pb2.ReleaseResponse()


@dataclass
class Received:
    """Everything that a call answered."""

    started: talker_pb2.SpeakStarted | None = None
    speech: list[talker_pb2.Speech] = field(default_factory=list[talker_pb2.Speech])
    done: talker_pb2.SpeakDone | None = None

    @property
    def codes(self) -> list[list[int]]:
        return np.array([code for part in self.speech for code in part.codes]).reshape(-1, 16).tolist()

    @property
    def pcm(self) -> bytes:
        return b"".join(part.pcm for part in self.speech)


@dataclass
class Talker:
    """A talker that runs in the test's own process."""

    stub: Any
    keeper: SlotKeeper
    queues: QueueClient
    thinker: HiddenStatesOwner
    rows_address: str

    async def lease(self) -> common_pb2.Lease:
        grant = await self.queues.acquire(QUEUE, TicketSpec("r", "tests"))
        return common_pb2.Lease(lease_id=grant.lease_id, worker_id=grant.worker_id)

    async def start_of(self, answer: OracleResult, **changes: Any) -> talker_pb2.SpeakStart:
        images, videos = grids_of(answer)
        start = talker_pb2.SpeakStart(
            context=common_pb2.RequestContext(request_id="r"),
            lease=await self.lease(),
            model=QUEUE.model,
            prompt_token_ids=answer.prompt_ids,
            image_grids=images,
            video_grids=videos,
            sampling=talker_pb2.TalkerSampling(seed=OPTIONS.seed),
            max_frames=OPTIONS.max_frames,
        )
        if len(answer.hidden_states):
            start.hidden_states.CopyFrom(self.keep(answer.hidden_states))
        for name, value in changes.items():
            start.ClearField(cast(Any, name))
            start.MergeFrom(talker_pb2.SpeakStart(**{name: value}))
        return start

    def keep(self, hidden_states: torch.Tensor) -> common_pb2.TensorRef:
        data = tensor_to_bytes(hidden_states)
        key = f"states-{len(hidden_states)}"
        self.thinker.blobs.put(key, data, "r")
        blob = common_pb2.BlobRef(owner=self.rows_address, key=key, size_bytes=len(data))
        return common_pb2.TensorRef(blob=blob, dtype="float32", shape=hidden_states.shape)

    async def speak(self, start: talker_pb2.SpeakRequest, *texts: talker_pb2.SpeakRequest) -> Received:
        """Read to the end. Raise the error that the call ended with."""
        received = Received()
        has_started = asyncio.Event()

        async def requests() -> AsyncGenerator[talker_pb2.SpeakRequest]:
            yield start
            await has_started.wait()
            for part in texts:
                yield part

        try:
            async for response in self.stub.Speak(requests()):
                has_started.set()
                match response.WhichOneof("event"):
                    case "started":
                        received.started = response.started
                    case "speech":
                        received.speech.append(response.speech)
                    case _:
                        received.done = response.done
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "talker") from None
        return received


def text(token_ids: Iterable[int], *, is_last: bool) -> talker_pb2.SpeakRequest:
    return talker_pb2.SpeakRequest(text=talker_pb2.SpokenText(token_ids=token_ids, is_last=is_last))


def begin(start: talker_pb2.SpeakStart) -> talker_pb2.SpeakRequest:
    return talker_pb2.SpeakRequest(start=start)


async def read_to_end(call: Any) -> None:
    """Read to the end. Raise the error that the call ended with."""
    try:
        while await call.read() is not EOF:
            pass
    except grpc.aio.AioRpcError as error:
        raise error_from_rpc(error, "talker") from None


@asynccontextmanager
async def running_talker(
    engine: SpeechEngine, models: SpeechModels, redis_url: str, **settings: Any
) -> AsyncGenerator[Talker]:
    server = grpc.aio.server(interceptors=(CallInterceptor(),), options=SERVER_OPTIONS)
    port = server.add_insecure_port("127.0.0.1:0")
    redis = connect(redis_url)
    address = f"127.0.0.1:{port}"
    keeper = SlotKeeper(redis, QUEUE, worker_id=f"talker-{port}", address=address, slots=SLOTS)
    queues = QueueClient(redis, f"gateway-{port}")
    known = TalkerSettings(redis_url=redis_url, model="-", served_name=QUEUE.model, **settings)
    servicer = TalkerServicer(engine, models.config, keeper, known)
    thinker = HiddenStatesOwner()
    talker_pb2_grpc.add_TalkerServicer_to_server(servicer, server)
    thinker_pb2_grpc.add_ThinkerServicer_to_server(thinker, server)
    await server.start()
    async with open_channel(address) as channel:
        background = [asyncio.create_task(each.run(), name="queues") for each in (keeper, queues)]
        yield Talker(talker_pb2_grpc.TalkerStub(channel), keeper, queues, thinker, address)
        await wait_until(lambda: keeper.busy == 0)
        await wait_until(lambda: engine.live_streams == 0)
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
    await server.stop(0)
    await servicer.close()
    await redis.aclose()
