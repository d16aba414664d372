"""The whole service: its own process, real Redis, real gRPC."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from antiphon.v1 import common_pb2, preprocess_pb2, preprocess_pb2_grpc
from services.common.channels import CHUNK_BYTES, open_channel
from services.common.errors import BadInput, Gone, NotFound, TimedOut, TooLarge
from services.common.grpc_errors import error_from_rpc
from services.common.queues import Grant, QueueClient, QueueLimits, QueueName, ServedModel, TicketSpec
from services.common.redis_client import connect
from services.common.tensors.transfer import PreprocessBlobs, fetch_blob
from services.preprocess.decoding.isolation.layers import ALL, Layer
from services.preprocess.features import FeatureExtractor
from services.preprocess.limits import MediaLimits
from tests.fixtures.processes import descendants, has_ended
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file
from tests.preprocess.rig import Conversation, decode_kwargs

pytestmark = pytest.mark.asyncio(loop_scope="module")

pb = preprocess_pb2
NAME = "antiphon.v1.Preprocess"
MODEL = "tiny-preprocess"
CAT = image_file(photograph(), "png")
SPEECH = sound_file(tone(1.3), 16_000, "flac")


@dataclass
class Service:
    """A running service, and what a gateway needs to call it."""

    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    channel: grpc.aio.Channel
    queue: QueueClient

    @property
    def stub(self) -> preprocess_pb2_grpc.PreprocessAsyncStub:
        return preprocess_pb2_grpc.PreprocessStub(self.channel)

    @property
    def blobs(self) -> PreprocessBlobs:
        return PreprocessBlobs(self.channel)

    async def grant(self, request_id: str = "r") -> Grant:
        spec = TicketSpec(request_id=request_id, tenant="t")
        return await self.queue.acquire(QueueName("preprocess", MODEL), spec)

    async def prepare(
        self,
        talk: Conversation,
        *,
        request_id: str = "r",
        grant: Grant | None = None,
        model: str = MODEL,
        timeout_s: float | None = 60,
        **context: Any,
    ) -> preprocess_pb2.PrepareResponse:
        """Call Prepare as the gateway does. Raise the error that came over the wire."""
        grant = grant or await self.grant(request_id)
        talk.start.model = model
        talk.start.context.CopyFrom(common_pb2.RequestContext(request_id=request_id, tenant="t", **context))
        talk.start.lease.CopyFrom(common_pb2.Lease(lease_id=grant.lease_id, worker_id=grant.worker_id))
        return await self.send(pb.PrepareRequest(start=talk.start), *chunks(talk), timeout_s=timeout_s)

    async def send(
        self, *requests: preprocess_pb2.PrepareRequest, timeout_s: float | None = 60
    ) -> preprocess_pb2.PrepareResponse:
        async def stream() -> AsyncIterator[preprocess_pb2.PrepareRequest]:
            for request in requests:
                yield request

        try:
            return await self.stub.Prepare(stream(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            raise error_from_rpc(error, "preprocess") from None

    async def tensors(self, feature: preprocess_pb2.Feature) -> dict[str, torch.Tensor]:
        return decode_kwargs(await fetch_blob(self.blobs, feature.kwargs, peer="preprocess", timeout_s=20))

    async def idle(self) -> bool:
        workers = await self.queue.workers(QueueName("preprocess", MODEL))
        return [worker.busy for worker in workers] == [0]

    def ask(self, path: str) -> str:
        """Return what the metrics port answers."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports['metrics']}{path}") as answer:
            return answer.read().decode()

    def metric(self, name: str) -> float:
        lines = self.ask("/metrics").splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


def chunks(talk: Conversation) -> list[preprocess_pb2.PrepareRequest]:
    return [
        pb.PrepareRequest(chunk=pb.InlineChunk(inline_index=index, data=data[start : start + CHUNK_BYTES]))
        for index, data in talk.inline.items()
        for start in range(0, len(data), CHUNK_BYTES)
    ]


def start_process(
    model: Path, redis_url: str, ready: Path, *, scratch: Path | None = None, **settings: str
) -> subprocess.Popen[bytes]:
    own = {"redis_url": redis_url, "model": str(model), "served_name": MODEL, "ready_file": str(ready), **settings}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("ANTIPHON_")}
    environment |= {f"ANTIPHON_{name.upper()}": value for name, value in own.items()}
    environment |= {"TMPDIR": str(scratch)} if scratch else {}
    return subprocess.Popen([sys.executable, "-m", "services.preprocess"], env=environment)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def service(
    tiny_instruct: Path, valkey_url: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[Service]:
    ready = tmp_path_factory.mktemp("preprocess") / "ready.json"
    process = start_process(
        tiny_instruct,
        valkey_url,
        ready,
        decoders="1",
        slots="2",
        receive_timeout_s="4",
        max_item_bytes="3000000",
        max_request_bytes="4000000",
    )
    try:
        await wait_until(lambda: ready.exists() or process.poll() is not None)
        assert process.poll() is None
        ports = json.loads(ready.read_text())
        redis = connect(valkey_url)
        queue = QueueClient(redis, "test-gateway", QueueLimits())
        async with open_channel(f"127.0.0.1:{ports['grpc']}") as channel, asyncio.TaskGroup() as tasks:
            running = tasks.create_task(queue.run())
            yield Service(process, ports, channel, queue)
            running.cancel()
        await redis.aclose()
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, HANGS_AFTER_S) == 0
    finally:
        process.kill()
        process.wait()


async def test_it_serves_health_and_reflection(service: Service):
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", NAME):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection: Any = reflection_pb2_grpc.ServerReflectionStub(service.channel)  # pyright: ignore[reportArgumentType]

    async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)

    (answer,) = [answer async for answer in reflection.ServerReflectionInfo(ask())]
    assert any(b"Prepare" in file for file in answer.file_descriptor_response.file_descriptor_proto)


async def test_readiness_says_which_layers_isolate_decoders(service: Service):
    ready = json.loads(service.ask("/health/ready"))
    layers = ready.pop("decoder_isolation")
    assert ready == {"status": "ok"}
    assert set(layers) == set(ALL)
    assert layers[Layer.RLIMITS] == "on"
    for layer, state in layers.items():
        assert state == "on" or state.startswith("off: ")
        assert service.metric(f'antiphon_preprocess_decoder_isolation{{layer="{layer}"}}') == (state == "on")


async def test_gateways_see_its_model(service: Service):
    async def served() -> ServedModel | None:
        return (await service.queue.models()).get(MODEL)

    await wait_until(served)
    model = await served()
    assert model is not None
    assert model.card.kind == common_pb2.MODEL_KIND_INSTRUCT
    assert model.stages == {"preprocess"}
    assert model.card.input == MediaLimits(item_bytes=3_000_000, request_bytes=4_000_000).published


async def test_a_request_becomes_ids_features_and_counts(service: Service, extractor: FeatureExtractor):
    talk = Conversation(use_audio_in_video=True)
    film = video_file(sound=tone(4.0, 48_000))
    talk.turn("user", talk.image(CAT), talk.video(film), talk.audio(SPEECH), "What is this?")
    response = await service.prepare(talk)
    assert [f.modality for f in response.features] == [
        common_pb2.MODALITY_IMAGE,
        common_pb2.MODALITY_AUDIO,
        common_pb2.MODALITY_AUDIO,
        common_pb2.MODALITY_VIDEO,
    ]
    image, track, speech, video = response.features
    assert len({f.hash for f in response.features}) == 4
    assert (image.grid.t, image.grid.seconds_per_grid) == (1, 0)
    assert (video.grid.t, video.grid.seconds_per_grid) == (4, 1)
    assert (track.offset, track.length) == (video.offset, video.length)
    assert len(video.is_embed) == len(track.is_embed) == -(-video.length // 8)
    assert not image.is_embed
    video_tokens = int.from_bytes(video.is_embed, "big").bit_count()
    track_tokens = int.from_bytes(track.is_embed, "big").bit_count()
    usage = response.usage
    assert (usage.image_tokens, usage.video_tokens) == (image.length, video_tokens)
    assert usage.audio_tokens == track_tokens + speech.length
    assert usage.text_tokens == len(response.prompt_token_ids) - usage.image_tokens - video_tokens - usage.audio_tokens
    assert (response.timings.items, response.timings.cached_items) == (3, 0)
    assert min(response.timings.decode_ms, response.timings.process_ms) > 0
    tensors = await service.tensors(image)
    wanted = extractor.processor(text=["<|image_pad|>"], images=[photograph()], return_tensors="pt")
    assert torch.equal(tensors["pixel_values"], wanted["pixel_values"])
    assert (await service.tensors(video))["use_audio_in_video"]
    again = await service.prepare(talk, request_id="again")
    assert again.timings.cached_items == 3
    assert again.features == response.features
    assert service.metric('antiphon_preprocess_items_total{modality="image",work="cached"}') == 1
    for request_id in ("r", "again", "unknown"):
        await service.stub.Release(common_pb2.ReleaseRequest(request_id=request_id))


async def test_the_slot_is_free_again_after_each_call(service: Service):
    await wait_until(service.idle)
    for _ in range(5):
        await service.prepare(Conversation().turn("user", "hello"))
    await wait_until(service.idle)


async def test_a_lease_serves_one_call_and_an_unknown_one_none(service: Service):
    grant = await service.grant()
    await service.prepare(Conversation().turn("user", "hello"), grant=grant)
    with pytest.raises(Gone):
        await service.prepare(Conversation().turn("user", "hello"), grant=grant)
    invented = Conversation().turn("user", "hello")
    invented.start.lease.lease_id = "invented"
    with pytest.raises(Gone):
        await service.send(pb.PrepareRequest(start=invented.start))


async def test_errors_arrive_with_their_part_and_free_the_slot(service: Service):
    talk = Conversation()
    talk.turn("user", talk.image(b"nonsense"))
    with pytest.raises(BadInput) as caught:
        await service.prepare(talk)
    assert (caught.value.code, caught.value.param) == ("invalid_media", "messages[0].content[0].image_url.url")
    with pytest.raises(NotFound):
        await service.prepare(Conversation().turn("user", "hello"), model="another")
    assert service.metric('antiphon_preprocess_errors_total{code="invalid_media"}') == 1
    await wait_until(service.idle)


async def test_too_many_inline_bytes_are_refused_while_they_arrive(service: Service):
    large = Conversation()
    large.turn("user", large.image(bytes(3_500_000)))
    with pytest.raises(TooLarge) as caught:
        await service.prepare(large)
    assert caught.value.param == "messages[0].content[0].image_url.url"
    together = Conversation()
    together.turn("user", together.image(bytes(2_500_000)), together.image(bytes(2_500_000)))
    with pytest.raises(TooLarge):
        await service.prepare(together)


async def test_a_stream_that_breaks_the_order_is_refused(service: Service):
    with pytest.raises(BadInput):
        await service.send()
    with pytest.raises(BadInput):
        await service.send(pb.PrepareRequest(chunk=pb.InlineChunk(data=b"x")))
    talk = Conversation()
    talk.turn("user", talk.image(CAT))
    talk.inline = {7: CAT}
    with pytest.raises(BadInput):
        await service.prepare(talk)


async def test_the_wait_for_media_is_bounded(service: Service):
    talk = Conversation()
    talk.turn("user", talk.image(CAT))
    grant = await service.grant()
    talk.start.model = MODEL
    talk.start.context.request_id = "slow"
    talk.start.lease.lease_id = grant.lease_id
    gone = asyncio.Event()

    async def stream() -> AsyncIterator[preprocess_pb2.PrepareRequest]:
        yield pb.PrepareRequest(start=talk.start)
        await gone.wait()

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await service.stub.Prepare(stream(), timeout=HANGS_AFTER_S)
    gone.set()
    assert isinstance(error_from_rpc(caught.value, "preprocess"), TimedOut)
    await wait_until(service.idle)


async def test_a_deadline_that_passed_ends_the_work(service: Service):
    talk = Conversation()
    talk.turn("user", talk.video(video_file(frames=30)))
    with pytest.raises(TimedOut):
        await service.prepare(talk, timeout_s=None, deadline_unix_ms=int(time.time() * 1000) - 1)
    await wait_until(service.idle)


async def test_a_caller_with_a_clock_ten_minutes_behind_is_served(service: Service):
    """Only gRPC's own deadline counts, which is sent as the time left."""
    talk = Conversation()
    talk.turn("user", "hello")
    prepared = await service.prepare(talk, deadline_unix_ms=int((time.time() - 600) * 1000))
    assert prepared.prompt_token_ids


async def test_a_caller_that_leaves_frees_the_slot(service: Service):
    talk = Conversation()
    talk.turn("user", talk.video(video_file(frames=60, size=(640, 360))))
    grant = await service.grant("left")
    work = asyncio.create_task(service.prepare(talk, request_id="left", grant=grant))
    await wait_until(lambda: not work.done() and service.metric("antiphon_preprocess_media_bytes_total"))
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
    await wait_until(service.idle)
    assert (await service.prepare(Conversation().turn("user", "hello"))).prompt_token_ids


async def test_an_unknown_feature_is_gone(service: Service):
    with pytest.raises(Gone):
        await fetch_blob(
            PreprocessBlobs(service.channel),
            common_pb2.BlobRef(key="none", size_bytes=1),
            peer="preprocess",
            timeout_s=5,
        )


async def test_a_killed_service_leaves_no_process_and_no_file(tiny_instruct: Path, valkey_url: str, tmp_path: Path):
    scratch, ready = tmp_path / "scratch", tmp_path / "ready.json"
    scratch.mkdir()
    process = start_process(tiny_instruct, valkey_url, ready, scratch=scratch, decoders="2")
    try:
        await wait_until(lambda: ready.exists() or process.poll() is not None)
        below = descendants(process.pid)
        assert len(below) >= 3  # the fork server and two decoders
    finally:
        process.kill()
        process.wait()
    await wait_until(lambda: all(has_ended(pid) for pid in below))
    assert list(scratch.iterdir()) == []
