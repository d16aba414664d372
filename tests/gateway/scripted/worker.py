"""Workers of the three stages that follow a script: real gRPC servers with real slots, in the test's process."""

from __future__ import annotations

import asyncio
import itertools
import struct
import uuid
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from types import TracebackType
from typing import Any, ClassVar, Self

import grpc.aio

from antiphon.v1 import (
    common_pb2,
    preprocess_pb2,
    preprocess_pb2_grpc,
    talker_pb2,
    talker_pb2_grpc,
    thinker_pb2,
    thinker_pb2_grpc,
)
from services.common.channels import SERVER_OPTIONS, ChannelPool
from services.common.errors import FEATURES_GONE, HIDDEN_STATES_GONE, BadInput, Gone, WorkerLost
from services.common.interceptors import CallInterceptor
from services.common.queues import QueueName, SlotKeeper
from services.common.redis_client import connect
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import PreprocessBlobs, ThinkerBlobs, fetch_blob, serve_blob
from tests.gateway.scripted.engine import ScriptedEngine
from tests.gateway.scripted.script import Script
from tests.gateway.scripted.story import CODEBOOKS, FATAL, SAMPLES_PER_FRAME, Story

_arrivals = itertools.count()


class Calls(list[Any]):
    """`arrived`: when each came, among the calls of all workers."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: dict[int, int] = {}

    def append(self, call: Any) -> None:
        self.arrived[id(call)] = next(_arrivals)
        super().append(call)

    def clear(self) -> None:
        self.arrived.clear()
        super().clear()


class ScriptedWorker(ABC):
    """A worker, used with `async with`. `calls` are the requests that it received, in order."""

    stage: ClassVar[str]

    def __init__(self, redis_url: str, card: common_pb2.ModelCard, story: Story, slots: int = 2) -> None:
        self.script = Script()
        self.calls = Calls()
        self.story = story
        self.store = BlobStore(1 << 20, keep_released=False)
        self.keeper: SlotKeeper
        self._redis_url = redis_url
        self._card = card
        self._slots = slots
        self._stack = AsyncExitStack()
        self._channels = ChannelPool()
        self.queue = QueueName(self.stage, card.name)
        self._server = grpc.aio.server(interceptors=(CallInterceptor(),), options=SERVER_OPTIONS)
        self._ending: asyncio.Task[None] | None = None
        self.address = ""
        self.engine = ScriptedEngine(self.fail)

    @abstractmethod
    def _add_to(self, server: grpc.aio.Server) -> None: ...

    async def __aenter__(self) -> Self:
        self._add_to(self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        await self._server.start()
        redis = connect(self._redis_url)
        self._stack.push_async_callback(redis.aclose)
        self._stack.push_async_callback(self._channels.close)
        self.keeper = SlotKeeper(
            redis,
            self.queue,
            worker_id=uuid.uuid4().hex,
            address=self.address,
            slots=self._slots,
            card=self._card,
        )
        self._keeping = asyncio.create_task(self.keeper.run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        assert self._ending is not None
        await self._ending
        await self._stack.aclose()

    @property
    def is_alive(self) -> bool:
        return self._ending is None

    def kill(self) -> None:
        """End like a killed process: break every connection and take no more tickets."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())

    def fail(self) -> None:
        """End as a worker does when its engine has failed: callers are told, and the connections are closed."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(grace_s=5.0))

    async def _end(self, grace_s: float | None = None) -> None:
        self._keeping.cancel()
        await self._server.stop(grace_s)
        await asyncio.gather(self._keeping, return_exceptions=True)

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        async for chunk in serve_blob(self.store, request):
            yield chunk

    async def Release(self, request: common_pb2.ReleaseRequest, context: Any) -> common_pb2.ReleaseResponse:
        self.store.release(request.request_id)
        return common_pb2.ReleaseResponse(decode_price_s=self.decoded_in_vain_s(request.request_id))

    def decoded_in_vain_s(self, request_id: str) -> float:
        """Return what the worker says that it decoded for a request in vain."""
        return 0.0

    def _keep(self, turn: str, data: bytes = b"12345678") -> common_pb2.BlobRef:
        key = uuid.uuid4().hex
        self.store.put(key, data, turn)
        return common_pb2.BlobRef(owner=self.address, key=key, size_bytes=len(data))


class ScriptedPreprocess(ScriptedWorker, preprocess_pb2_grpc.PreprocessServicer):
    stage = "preprocess"
    # False = as a version without given answers.
    knows_said = True
    # False = as a version that cuts no recordings.
    knows_cuts = True

    def __init__(self, redis_url: str, card: common_pb2.ModelCard, story: Story, slots: int = 2) -> None:
        super().__init__(redis_url, card, story, slots)
        # The inline media of each call.
        self.media: list[list[bytes]] = []
        self.cuts: list[preprocess_pb2.CutStart] = []
        # What it says that decoding cost, call by call; nothing in those that come after.
        self.decode_prices_s: list[float] = []
        # The same of what it decoded in vain, by request: told as that is released.
        self.in_vain_s: dict[str, float] = {}

    def decoded_in_vain_s(self, request_id: str) -> float:
        return self.in_vain_s.pop(request_id, 0.0)

    def _add_to(self, server: grpc.aio.Server) -> None:
        preprocess_pb2_grpc.add_PreprocessServicer_to_server(self, server)

    async def Prepare(
        self, request_iterator: AsyncIterator[preprocess_pb2.PrepareRequest], context: Any
    ) -> preprocess_pb2.PrepareResponse:
        start = (await anext(aiter(request_iterator))).start
        self.calls.append(start)
        media: dict[int, bytes] = {}
        async for request in request_iterator:
            media[request.chunk.inline_index] = media.get(request.chunk.inline_index, b"") + request.chunk.data
        self.media.append([data for _, data in sorted(media.items())])
        with self.keeper.open(start.lease.lease_id):
            async with aclosing(self.script.play(self.script.next_act(), self._events(start), self.kill)) as events:
                async for response in events:
                    return response
        raise WorkerLost("cut")

    async def Cut(
        self, request_iterator: AsyncIterator[preprocess_pb2.CutRequest], context: Any
    ) -> AsyncIterator[preprocess_pb2.CutResponse]:
        """Cut the file where it says "|"; each byte between is a sample."""
        if not self.knows_cuts:
            async for _ in request_iterator:  # else the caller may learn of a failed send in place of the status
                pass
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")
        start = (await anext(aiter(request_iterator))).start
        self.cuts.append(start)
        file = b"".join([request.chunk async for request in request_iterator])
        with self.keeper.open(start.lease.lease_id):
            played = self.script.play(self.script.next_act(), _pieces(file, start.from_sample), self.kill)
            async with aclosing(played) as pieces:
                async for response in pieces:
                    yield response

    async def _events(self, start: preprocess_pb2.PrepareStart) -> AsyncIterator[preprocess_pb2.PrepareResponse]:
        ids, items = self.story.prompt(start)
        turn = start.context.request_id
        said = self.story.answering(ids).token_ids if start.said and self.knows_said else ()
        yield preprocess_pb2.PrepareResponse(
            prompt_token_ids=ids,
            features=[self.story.feature(n, self._keep(turn)) for n in range(items)],
            usage=preprocess_pb2.PromptUsage(text_tokens=3 + len(said), audio_tokens=len(ids) - 3),
            said_token_ids=said,
            fingerprint=self.story.fingerprint,
            decode_price_s=self.decode_prices_s.pop(0) if self.decode_prices_s else 0.0,
        )


async def _pieces(file: bytes, from_sample: int) -> AsyncIterator[preprocess_pb2.CutResponse]:
    end = 0
    for piece in file.split(b"|"):
        end += len(piece)
        if end > from_sample:
            samples = struct.pack(f"<{len(piece)}f", *piece)
            yield preprocess_pb2.CutResponse(samples=samples[:4], recording_s=1.5)
            yield preprocess_pb2.CutResponse(samples=samples[4:], ends_piece=True, recording_s=1.5)


class ScriptedThinker(ScriptedWorker, thinker_pb2_grpc.ThinkerServicer):
    stage = "thinker"

    def _add_to(self, server: grpc.aio.Server) -> None:
        thinker_pb2_grpc.add_ThinkerServicer_to_server(self, server)

    async def Generate(
        self, request: thinker_pb2.GenerateRequest, context: Any
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        self.calls.append(request)
        with self.keeper.open(request.lease.lease_id):
            act = self.script.next_act()
            for feature in request.features:
                stub = PreprocessBlobs(self._channels.get(feature.kwargs.owner))
                try:
                    await fetch_blob(stub, feature.kwargs, peer="preprocess worker", timeout_s=5)
                except (Gone, WorkerLost):
                    raise Gone("no features", code=FEATURES_GONE) from None
            prompt = list(request.prompt_token_ids) or self.story.prompt(request)[0]
            played = self.script.play(act, self._events(request, prompt), self.kill)
            is_fatal = FATAL[self.stage] in prompt
            async with aclosing(self.engine.run(request.context, played, is_fatal=is_fatal)) as events:
                async for event in events:
                    yield event

    async def _events(
        self, request: thinker_pb2.GenerateRequest, prompt: list[int]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        if request.messages:
            yield thinker_pb2.GenerateResponse(prompt=thinker_pb2.Prompt(token_ids=prompt))
        story = self.story.answering(prompt)
        done = list(request.generated_token_ids)
        assert done == story.token_ids[: len(done)]
        if request.wants_hidden_states and request.features:
            ref = common_pb2.TensorRef(blob=self._keep(request.context.request_id), dtype="float32", shape=[1, 2])
            yield thinker_pb2.GenerateResponse(hidden_states=thinker_pb2.HiddenStates(hidden_states=ref))
        texts = story.texts(len(done))
        only_prefill = request.sampling.max_tokens and request.sampling.max_tokens <= len(done)
        for response in texts[-1:] if only_prefill else texts:
            yield response


class ScriptedTalker(ScriptedWorker, talker_pb2_grpc.TalkerServicer):
    """A talker. Calls wait for `may_pull` before they pull hidden states."""

    stage = "talker"
    empty_texts = 0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.may_pull = asyncio.Event()
        self.may_pull.set()

    def _add_to(self, server: grpc.aio.Server) -> None:
        talker_pb2_grpc.add_TalkerServicer_to_server(self, server)

    async def Speak(
        self, request_iterator: AsyncIterator[talker_pb2.SpeakRequest], context: Any
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        requests = aiter(request_iterator)
        start = (await anext(requests)).start
        self.calls.append(start)
        with self.keeper.open(start.lease.lease_id):
            act = self.script.next_act()
            await self.may_pull.wait()
            if start.HasField("hidden_states"):
                blob = start.hidden_states.blob
                stub = ThinkerBlobs(self._channels.get(blob.owner))
                try:
                    await fetch_blob(stub, blob, peer="thinker", timeout_s=5)
                except (Gone, WorkerLost):
                    raise Gone("no hidden states", code=HIDDEN_STATES_GONE) from None
            yield talker_pb2.SpeakResponse(
                started=talker_pb2.SpeakStarted(
                    sample_rate=24_000,
                    samples_per_frame=SAMPLES_PER_FRAME,
                    codebooks=CODEBOOKS,
                    seed=start.sampling.seed if start.sampling.HasField("seed") else 4711,
                )
            )
            played = self.script.play(act, self._events(start, requests), self.kill)
            is_fatal = FATAL[self.stage] in start.prompt_token_ids
            async with aclosing(self.engine.run(start.context, played, is_fatal=is_fatal)) as events:
                async for event in events:
                    yield event

    async def _events(
        self, start: talker_pb2.SpeakStart, requests: AsyncIterator[talker_pb2.SpeakRequest]
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        """Yield one frame per received token, and after the last token all remaining frames."""
        story = self.story.answering(list(start.prompt_token_ids))
        codes = list(start.delivered_codes)
        if codes != story.codes[: len(codes)]:
            raise BadInput("other codes than were spoken")
        heard: list[int] = []
        ended = False
        for frame in range(len(codes) // CODEBOOKS, story.frames):
            while not ended and len(heard) <= frame:
                text = (await anext(requests)).text
                self.empty_texts += not (text.token_ids or text.is_last)
                heard += text.token_ids
                ended = text.is_last
            yield story.speech(frame, min(frame + 1, len(heard)))
        while not ended:
            text = (await anext(requests)).text
            heard += text.token_ids
            ended = text.is_last
        assert heard == story.spoken_ids[: len(heard)]  # a limit may have cut the text
        yield story.spoken()
