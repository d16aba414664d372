"""Speak over gRPC on a real port: Redis grants the leases, and hidden states are pulled from their owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import grpc.aio
import numpy as np
import pytest
import torch
from grpc.aio import EOF

from antiphon.v1 import common_pb2, talker_pb2, talker_pb2_grpc, thinker_pb2_grpc
from services.common.channels import SERVER_OPTIONS, open_channel
from services.common.errors import HIDDEN_STATES_GONE, AntiphonError, BadInput, ContextTooLong, Gone, NotFound, TimedOut
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
from tests.talker.conftest import ExpectedSpeech
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


@pytest.fixture
async def talker(engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str) -> AsyncIterator[Talker]:
    async with running_talker(engine, speech_models, valkey_url) as talker:
        yield talker


@pytest.fixture
def expected(answer: ExpectedSpeech) -> OracleResult:
    return answer("image", 40, OPTIONS)


async def test_speech_over_grpc_equals_transformers(talker: Talker, expected: OracleResult) -> None:
    received = await talker.speak(
        begin(await talker.start_of(expected)),
        text(expected.token_ids[:1], is_last=False),
        text(expected.token_ids[1:9], is_last=False),
        text(expected.token_ids[9:], is_last=True),
    )
    assert received.started == talker_pb2.SpeakStarted(
        sample_rate=24000, samples_per_frame=1920, codebooks=16, seed=OPTIONS.seed
    )
    assert received.codes == expected.codes.tolist()
    pcm = np.frombuffer(received.pcm, "<i2")
    assert len(pcm) == len(expected.samples)
    wanted = np.rint(expected.samples.numpy().clip(-1, 1) * 32767)
    assert np.abs(pcm - wanted).max() <= 4  # 1e-4 of full scale
    assert np.abs(wanted).max() > 300
    assert received.done is not None
    assert (received.done.reason, received.done.frames) == (talker_pb2.SPEECH_END_LENGTH, len(expected.codes))
    assert received.done.samples == len(expected.samples)
    assert received.done.codec_ms_per_frame > 0
    assert len(received.speech[0].codes) == 16  # the first frame waits for no other
    for part in received.speech:
        assert part.text_tokens == part.first_frame + len(part.codes) // 16  # a token for each frame


async def test_each_frame_leaves_as_soon_as_its_text_is_there(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected)))
    assert (await call.read()).HasField("started")
    for frame, token in enumerate(expected.token_ids[:5]):
        await call.write(text([token], is_last=False))
        response: talker_pb2.SpeakResponse = await call.read()
        assert list(response.speech.codes) == expected.codes[frame].tolist()
        assert len(response.speech.pcm) == 2 * (1920 if frame else 1365)
    call.cancel()


async def test_a_cancelled_call_frees_its_slot_within_a_second(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected)))
    await call.read()
    assert talker.keeper.busy == 1
    call.cancel()
    began_s = time.monotonic()
    await wait_until(lambda: talker.keeper.busy == 0)
    assert time.monotonic() - began_s < 5


async def test_a_call_cancelled_while_speech_comes_frees_its_slot(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, max_frames=4000)))
    await call.write(text([5] * 4000, is_last=True))
    for _ in range(3):
        await call.read()
    call.cancel()
    await wait_until(lambda: talker.keeper.busy == 0)


async def test_resumed_speech_sends_only_what_was_not_delivered(talker: Talker, expected: OracleResult) -> None:
    delivered = expected.codes[:7].reshape(-1).tolist()
    received = await talker.speak(
        begin(await talker.start_of(expected, delivered_codes=delivered)), text(expected.token_ids, is_last=True)
    )
    assert received.speech[0].first_frame == 7
    assert received.speech[0].first_sample == 7 * 1920 - 555
    assert received.codes == expected.codes[7:].tolist()
    assert received.done is not None
    assert received.done.samples == len(expected.samples)


async def test_a_drawn_seed_is_reported_and_can_be_reused(talker: Talker, expected: OracleResult) -> None:
    async def say(sampling: talker_pb2.TalkerSampling) -> Received:
        start = await talker.start_of(expected, sampling=sampling, max_frames=4)
        return await talker.speak(begin(start), text(expected.token_ids, is_last=True))

    first, other = await say(talker_pb2.TalkerSampling()), await say(talker_pb2.TalkerSampling())
    assert first.started is not None
    assert other.started is not None
    assert first.started.seed != other.started.seed
    again = await say(talker_pb2.TalkerSampling(seed=first.started.seed))
    assert again.codes == first.codes


@pytest.mark.parametrize("tokens", [[], [5]])
async def test_nothing_to_speak_ends_without_audio(talker: Talker, expected: OracleResult, tokens: list[int]) -> None:
    received = await talker.speak(begin(await talker.start_of(expected)), text(tokens, is_last=True))
    assert received.speech == []
    assert received.done is not None
    assert (received.done.reason, received.done.samples) == (talker_pb2.SPEECH_END_NO_TEXT, 0)


async def test_a_lease_serves_one_call(talker: Talker, expected: OracleResult) -> None:
    start = await talker.start_of(expected, max_frames=2)
    await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    with pytest.raises(Gone):
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))


@pytest.mark.parametrize(
    ("changes", "kind", "code", "param"),
    [
        ({"voice": "Nobody"}, BadInput, "unknown_voice", "voice"),
        ({"model": "another"}, NotFound, "model_not_found", "model"),
        ({"max_frames": 0}, BadInput, "invalid_value", "max_frames"),
        ({"sampling": talker_pb2.TalkerSampling(temperature=-1)}, BadInput, "invalid_value", "talker.temperature"),
        ({"delivered_codes": [1] * 17}, BadInput, "invalid_value", "delivered_codes"),
        ({"delivered_codes": [999] * 16}, BadInput, "invalid_value", "delivered_codes"),
        ({"prompt_token_ids": [1, 2, 3]}, BadInput, "invalid_value", "prompt_token_ids"),
        ({"prompt_token_ids": [99999999]}, BadInput, "invalid_value", "prompt_token_ids"),
        ({"image_grids": []}, BadInput, "invalid_value", "grids"),
        ({"hidden_states": common_pb2.TensorRef()}, BadInput, "invalid_value", "hidden_states"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
async def test_a_wrong_start_is_refused_and_costs_nothing(
    talker: Talker, expected: OracleResult, changes: dict[str, Any], kind: type[AntiphonError], code: str, param: str
) -> None:
    start = await talker.start_of(expected, **changes)
    with pytest.raises(kind) as refused:
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    assert (refused.value.code, refused.value.param) == (code, param)
    await wait_until(lambda: talker.keeper.busy == 0)


async def test_an_unknown_voice_error_lists_the_known_ones(talker: Talker, expected: OracleResult) -> None:
    with pytest.raises(BadInput, match="Nobody") as refused:
        await talker.speak(begin(await talker.start_of(expected, voice="Nobody")))
    assert all(voice in refused.value.message for voice in ("chelsie", "ethan", "aiden"))


async def test_too_few_hidden_states_are_refused(talker: Talker, expected: OracleResult) -> None:
    start = await talker.start_of(expected, hidden_states=talker.keep(expected.hidden_states[1:]))
    with pytest.raises(BadInput, match=r"15 media placeholders, but 14 hidden states") as refused:
        await talker.speak(begin(start), text(expected.token_ids, is_last=True))
    assert refused.value.param == "hidden_states"


@pytest.mark.parametrize("change", [{"key": "other"}, {"owner": "127.0.0.1:1"}], ids=["released", "thinker away"])
async def test_hidden_states_that_cannot_be_pulled_are_gone(
    talker: Talker, expected: OracleResult, change: dict[str, str]
) -> None:
    """The gateway must make them again, not start the speech on another talker."""
    start = await talker.start_of(expected)
    for name, value in change.items():
        setattr(start.hidden_states.blob, name, value)
    with pytest.raises(Gone) as refused:
        await talker.speak(begin(start))
    assert refused.value.code == HIDDEN_STATES_GONE


async def test_text_that_ends_without_its_last_token_is_refused(talker: Talker, expected: OracleResult) -> None:
    with pytest.raises(BadInput, match="last token"):
        await talker.speak(begin(await talker.start_of(expected)), text([5, 6], is_last=False))


async def test_a_call_must_begin_with_start(talker: Talker) -> None:
    with pytest.raises(BadInput) as refused:
        await talker.speak(text([5], is_last=True))
    assert refused.value.param == "start"


async def test_a_second_start_is_refused(talker: Talker, expected: OracleResult) -> None:
    start = begin(await talker.start_of(expected))
    with pytest.raises(BadInput):
        await talker.speak(start, start)


async def test_a_deadline_ends_a_call_that_waits_for_text(talker: Talker, expected: OracleResult) -> None:
    context = common_pb2.RequestContext(request_id="r", deadline_unix_ms=round(time.time() * 1000) + 300)
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, context=context)))
    with pytest.raises(TimedOut):
        await read_to_end(call)


async def test_empty_text_changes_nothing(talker: Talker, expected: OracleResult) -> None:
    ids = expected.token_ids
    received = await talker.speak(
        begin(await talker.start_of(expected)),
        text([], is_last=False),
        text(ids[:2], is_last=False),
        text([], is_last=False),
        text(ids[2:], is_last=True),
    )
    assert received.codes == expected.codes.tolist()


async def test_missing_text_ends_the_call(
    engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str, expected: OracleResult
) -> None:
    async with running_talker(engine, speech_models, valkey_url, text_timeout_s=0.05) as talker:
        call = talker.stub.Speak()
        await call.write(begin(await talker.start_of(expected)))
        with pytest.raises(TimedOut):
            await read_to_end(call)


async def test_speech_that_ends_before_its_text_is_sent_whole(talker: Talker, expected: OracleResult) -> None:
    call = talker.stub.Speak()
    await call.write(begin(await talker.start_of(expected, max_frames=2)))
    await call.write(text([5] * 20, is_last=False))
    await wait_until(lambda: talker.keeper.busy == 0)
    for _ in range(20):
        await call.write(text([5], is_last=False))
    await call.write(text([5], is_last=True))
    responses: list[talker_pb2.SpeakResponse] = [response async for response in call]
    assert [response.WhichOneof("event") for response in responses] == ["started", "speech", "speech", "done"]


async def test_the_operators_frame_limit_holds(
    engine: SpeechEngine, speech_models: SpeechModels, valkey_url: str, expected: OracleResult
) -> None:
    async with running_talker(engine, speech_models, valkey_url, max_frames=3) as talker:
        received = await talker.speak(begin(await talker.start_of(expected)), text(expected.token_ids, is_last=True))
        assert received.codes == expected.codes[:3].tolist()


async def test_a_prompt_too_long_for_the_talker_is_refused(talker: Talker, speech_models: SpeechModels) -> None:
    config = speech_models.config
    turn = [config.im_start_id, config.user_id, *[5] * config.max_positions]
    prompt = [*turn, config.im_start_id, config.assistant_id, 5]
    start = talker_pb2.SpeakStart(lease=await talker.lease(), prompt_token_ids=prompt)
    with pytest.raises(ContextTooLong):
        await talker.speak(begin(start))
