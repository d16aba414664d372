"""ServiceHost with its interceptor and blob transfer, on a real server."""

import asyncio
import gc
import json
import os
import signal
import tracemalloc
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import Gauge

from antiphon.v1 import common_pb2, thinker_pb2_grpc
from services.common.channels import CHUNK_BYTES, open_channel
from services.common.errors import INTERNAL, AntiphonError, BadInput, Capacity, Fault, Gone, WorkerLost
from services.common.grpc_errors import error_from_rpc
from services.common.server import ServiceFailedError, ServiceHost
from services.common.settings import ServiceSettings
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import ThinkerBlobs, data_of, fetch_blob, serialized, serve_blob
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

NAME = "antiphon.v1.Thinker"


class Owner(thinker_pb2_grpc.ThinkerServicer):
    """Serves Fetch and Release from a real store. Release raises `refusal` if it is set."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.refusal: Exception | None = None
        self.entered = asyncio.Event()
        self.go_on = asyncio.Event()
        self.left_by_its_own_task: bool | None = None

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        if request.key == "slow":
            self.entered.set()
            await self.go_on.wait()
        serving = asyncio.current_task()
        try:
            async for response in serve_blob(self.store, request):
                self.entered.set()
                yield response
        finally:
            self.left_by_its_own_task = asyncio.current_task() is serving

    async def Release(self, request: common_pb2.ReleaseRequest, context: Any) -> common_pb2.ReleaseResponse:
        if self.refusal is not None:
            raise self.refusal
        self.store.release(request.request_id)
        return common_pb2.ReleaseResponse()


Hosted = tuple[ServiceHost, Owner, grpc.aio.Channel]


@asynccontextmanager
async def hosted(
    ready_file: Path | None = None, drain_s: float = 5, shutdown_delay_s: float = 0
) -> AsyncGenerator[Hosted]:
    settings = ServiceSettings(redis_url="redis://127.0.0.1:1", ready_file=ready_file, drain_s=drain_s)
    owner = Owner(BlobStore(64 << 20))  # pyright: ignore[reportAbstractUsage]  # Generate is not called
    async with ServiceHost(settings, NAME, shutdown_delay_s=shutdown_delay_s) as host:
        thinker_pb2_grpc.add_ThinkerServicer_to_server(owner, host.server)
        await host.start()
        async with open_channel(host.address) as channel:
            yield host, owner, channel


async def status(channel: grpc.aio.Channel, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


async def test_health_is_serving_only_once_the_service_is_ready(tmp_path: Path):
    async with hosted(tmp_path / "ready.json") as (host, _, channel):
        for name in ("", NAME):
            assert await status(channel, name) == health_pb2.HealthCheckResponse.NOT_SERVING
        await host.become_ready()
        for name in ("", NAME):
            assert await status(channel, name) == health_pb2.HealthCheckResponse.SERVING
        ports = json.loads((tmp_path / "ready.json").read_text())
        assert ports == {"grpc": host.port, "metrics": host.metrics_port}


async def test_a_ready_service_freezes_its_objects_for_the_collector():
    gc.unfreeze()
    async with hosted() as (host, _, _):
        assert gc.get_freeze_count() == 0
        await host.become_ready()
        assert gc.get_freeze_count() > 10_000


async def test_reflection_lists_the_service_and_describes_its_methods():
    async with hosted() as (_, _, channel):
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)  # pyright: ignore[reportArgumentType]

        async def ask() -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=NAME)

        answers = [a async for a in stub.ServerReflectionInfo(ask())]
        assert NAME in {s.name for s in answers[0].list_services_response.service}
        assert any(b"Generate" in f for f in answers[1].file_descriptor_response.file_descriptor_proto)


@pytest.mark.parametrize(
    ("refusal", "status_code"),
    [
        (BadInput("no such voice", param="audio.voice", code="unknown_voice"), grpc.StatusCode.INVALID_ARGUMENT),
        (Capacity("full", retry_after_s=2.5), grpc.StatusCode.RESOURCE_EXHAUSTED),
        (Gone("not held"), grpc.StatusCode.FAILED_PRECONDITION),
    ],
)
async def test_an_error_keeps_all_its_fields_over_the_wire(refusal: AntiphonError, status_code: grpc.StatusCode):
    async with hosted() as (_, owner, channel):
        owner.refusal = refusal
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert caught.value.code() is status_code
        back = error_from_rpc(caught.value, "thinker")
        assert type(back) is type(refusal)
        assert (back.message, back.code, back.param, back.retry_after_s) == (
            refusal.message,
            refusal.code,
            refusal.param,
            refusal.retry_after_s,
        )


async def test_an_unexpected_exception_is_hidden_from_the_client():
    async with hosted() as (_, owner, channel):
        owner.refusal = RuntimeError("address 0xdeadbeef")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == INTERNAL


async def test_an_error_in_a_task_group_keeps_its_class():
    async with hosted() as (_, owner, channel):
        owner.refusal = ExceptionGroup("tasks", [ExceptionGroup("inner", [Gone("not held")]), ValueError("x")])
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await thinker_pb2_grpc.ThinkerStub(channel).Release(common_pb2.ReleaseRequest(request_id="x"))
        assert isinstance(error_from_rpc(caught.value, "thinker"), Gone)


async def test_a_blob_arrives_whole_and_a_released_one_is_gone():
    async with hosted() as (host, owner, channel):
        data = bytes(range(256)) * (CHUNK_BYTES // 64)
        owner.store.put("k", data, "turn")
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(owner=host.address, key="k", size_bytes=len(data))
        assert await fetch_blob(stub, ref, peer="thinker", timeout_s=10) == data
        owner.store.release("turn")
        with pytest.raises(Gone):
            await fetch_blob(stub, common_pb2.BlobRef(key="other", size_bytes=1), peer="thinker", timeout_s=10)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300_000, CHUNK_BYTES])
def test_chunks_are_protobuf_messages(size: int):
    data = os.urandom(size)
    message = common_pb2.FetchResponse(data=data).SerializeToString()
    if size:
        assert serialized(memoryview(data)) == message
    assert data_of(message) == data
    later = message + b"\x10\x01"  # with a field of a later version
    assert data_of(later) == data
    with pytest.raises(DecodeError):
        data_of(message + b"\x0a\x05abc")


async def test_a_blob_is_copied_once_on_its_owners_side_and_not_out_of_its_message():
    """A protobuf message would hold each chunk three times here and once more there."""
    store, size = BlobStore(1 << 30), 8 * CHUNK_BYTES
    store.put("k", bytes(size), "turn")
    tracemalloc.start()
    try:
        sent = [message async for message in serve_blob(store, common_pb2.FetchRequest(key="k"))]
        served, served_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        received = [data_of(message) for message in sent]
        _, received_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, received)) == size
    assert size <= served <= served_peak < 1.05 * size
    assert received_peak - served < 0.05 * size


async def test_a_cancelled_call_ends_in_its_own_task(caplog: pytest.LogCaptureFixture):
    async with hosted() as (_, owner, channel):
        owner.store.put("k", bytes(32 << 20), "turn")  # more than the connection buffers unread
        call = thinker_pb2_grpc.ThinkerStub(channel).Fetch(common_pb2.FetchRequest(key="k"))
        await owner.entered.wait()
        call.cancel()
        await wait_until(lambda: owner.left_by_its_own_task is not None)
        assert owner.left_by_its_own_task
    assert not caplog.records  # OpenTelemetry logs a span that another task closes


async def test_an_unreachable_peer_is_a_lost_worker():
    async with hosted() as (host, _, channel):
        await host.server.stop(0)
        with pytest.raises(WorkerLost):
            await fetch_blob(
                ThinkerBlobs(channel),
                common_pb2.BlobRef(key="k", size_bytes=1),
                peer="thinker",
                timeout_s=2,
            )


async def test_a_drain_finishes_running_calls_and_refuses_new_ones():
    async with hosted() as (host, owner, channel):
        owner.store.put("slow", b"done", "turn")
        order: list[str] = []
        host.on_drain(lambda: order.append("stop taking"))
        serving = asyncio.create_task(host.serve(started=True))
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        while not order:
            await asyncio.sleep(0)
        owner.go_on.set()
        assert await call == b"done"
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_new_calls_are_served_during_the_shutdown_delay():
    async with hosted(shutdown_delay_s=600) as (host, owner, channel):
        owner.store.put("k", b"here", "turn")
        order: list[str] = []
        host.on_shutdown_delay(lambda: order.append("delay"))
        host.on_drain(lambda: order.append("drain"))
        serving = asyncio.create_task(host.serve(started=True))
        await wait_until(lambda: host._serving)  # pyright: ignore[reportPrivateUsage]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]

        async def is_unhealthy() -> bool:
            return await status(channel) == health_pb2.HealthCheckResponse.NOT_SERVING

        await wait_until(is_unhealthy)
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="k", size_bytes=4)
        assert await fetch_blob(stub, ref, peer="thinker", timeout_s=10) == b"here"
        assert order == ["delay"]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_the_drain_follows_the_shutdown_delay():
    async with hosted(shutdown_delay_s=0.05) as (host, _, _):
        order: list[str] = []
        host.on_drain(lambda: order.append("drain"))
        host.on_shutdown_delay(lambda: order.append("delay"))
        serving = asyncio.create_task(host.serve(started=True))
        await wait_until(lambda: host._serving)  # pyright: ignore[reportPrivateUsage]
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)
        assert order == ["delay", "drain"]


async def test_a_host_that_refuses_calls_finishes_running_ones():
    async with hosted() as (host, owner, channel):
        owner.store.put("slow", b"done", "turn")
        host.on_drain(host.refuse_calls)
        host.on_drain(owner.go_on.wait)
        serving = asyncio.create_task(host.serve(started=True))
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        health: Any = health_pb2_grpc.HealthStub(channel)

        async def is_refused() -> bool:
            try:
                await health.Check(health_pb2.HealthCheckRequest())
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.UNAVAILABLE
            return False

        await wait_until(is_refused)
        owner.go_on.set()
        assert await call == b"done"
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_a_call_that_outlives_the_drain_ends_with_an_error():
    async with hosted(drain_s=0.05) as (host, owner, channel):
        host.on_drain(asyncio.Event().wait)
        host.on_cut(owner.go_on.set)
        serving = asyncio.create_task(host.serve(started=True))
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        stub = ThinkerBlobs(channel)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(Gone):  # nothing is stored under the key
            await call
        await asyncio.wait_for(serving, HANGS_AFTER_S)


async def test_a_service_that_cannot_continue_exits_with_a_failure():
    async with hosted() as (host, _, channel):
        serving = asyncio.create_task(host.serve(started=True))
        while await status(channel) != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0)
        host.fail("the engine died")
        with pytest.raises(ServiceFailedError):
            await serving


async def test_callers_of_a_failed_service_hear_why():
    """Its calls end by the same failure, a moment after the process knows of it."""
    async with hosted() as (host, owner, channel):
        loop = asyncio.get_running_loop()
        host.on_drain(lambda: loop.call_later(0.05, owner.go_on.set))
        serving = asyncio.create_task(host.serve(started=True))
        ref = common_pb2.BlobRef(key="slow", size_bytes=4)
        stub = ThinkerBlobs(channel)
        call = asyncio.create_task(fetch_blob(stub, ref, peer="thinker", timeout_s=10))
        await owner.entered.wait()
        host.fail("the engine died")
        with pytest.raises(Gone):  # nothing is stored under the key
            await call
        with pytest.raises(ServiceFailedError):
            await asyncio.wait_for(serving, HANGS_AFTER_S)


@pytest.mark.parametrize(
    "method", [f"/{NAME}/Release", f"/{NAME}/Fetch", "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"]
)
async def test_malformed_protobuf_is_invalid_and_logged_once(method: str, caplog: pytest.LogCaptureFixture):
    async with hosted() as (_, _, channel):
        refusals: list[grpc.aio.AioRpcError] = []
        for _ in range(3):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await answers(channel, method, b"\xff" * 1000)
            refusals.append(caught.value)
    assert {refusal.code() for refusal in refusals} == {grpc.StatusCode.INVALID_ARGUMENT}
    (record,) = caplog.records
    assert method in record.getMessage()
    assert len(record.getMessage()) < 200
    assert not record.exc_info
    assert isinstance(error_from_rpc(refusals[0], "thinker"), Fault)  # between services it is our own error


async def answers(channel: grpc.aio.Channel, method: str, request: bytes) -> list[bytes]:
    if method.endswith(("Fetch", "Watch")):
        return [answer async for answer in channel.unary_stream(method)(request, timeout=HANGS_AFTER_S)]
    return [await channel.unary_unary(method)(request, timeout=HANGS_AFTER_S)]


async def test_a_scrape_runs_its_callbacks_first():
    gauge = Gauge("test_scrapes", "Set at each scrape.")
    async with hosted() as (host, _, _):

        async def refresh() -> None:
            await asyncio.sleep(0)
            gauge.inc()

        host.on_scrape(refresh)
        async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
            url = f"http://127.0.0.1:{host.metrics_port}/metrics"
            pages = [(await client.get(url, params=some)).text for some in ({}, {"name[]": "test_scrapes"})]
    assert [f"test_scrapes {n}.0" in page for n, page in enumerate(pages, 1)] == [True, True]
    assert "process_cpu_seconds_total" not in pages[1]


async def test_a_scrape_with_a_failed_callback_shows_the_rest(caplog: pytest.LogCaptureFixture):
    async with hosted() as (host, _, _):

        async def refresh() -> None:
            raise RuntimeError

        host.on_scrape(refresh)
        async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
            page = await client.get(f"http://127.0.0.1:{host.metrics_port}/metrics")
    assert "python_info" in page.text
    assert "metrics are shown as they were" in caplog.text


async def test_the_metrics_port_tells_readiness_with_its_details():
    details: dict[str, Any] = {"layers": {"seccomp": "on"}}
    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        url = f"http://127.0.0.1:{host.metrics_port}/health/ready"
        assert "python_info" in (await client.get(url)).text  # nothing to tell: metrics, as at every path
        host.tell_when_ready(lambda: details)
        before = await client.get(url)
        assert (before.status_code, before.json()) == (503, {"status": "unavailable"})
        await host.become_ready()
        for layer in ("on", "off: Operation not permitted"):
            details["layers"] = {"seccomp": layer}
            answer = await client.get(url)
            assert (answer.status_code, answer.json()) == (200, {"status": "ok", "layers": {"seccomp": layer}})
        await host.set_ready(False)
        assert (await client.get(url)).status_code == 503


async def test_readiness_that_fails_is_unavailable_and_logged(caplog: pytest.LogCaptureFixture):
    def fail() -> dict[str, Any]:
        raise LookupError("no decoder")

    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        host.tell_when_ready(fail)
        await host.become_ready()
        answer = await client.get(f"http://127.0.0.1:{host.metrics_port}/health/ready")
    assert (answer.status_code, answer.json()) == (503, {"status": "unavailable"})
    assert "readiness is not known" in caplog.text


async def test_readiness_is_gone_when_a_drain_begins():
    drained: list[int] = []
    async with hosted() as (host, _, _), httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        url = f"http://127.0.0.1:{host.metrics_port}/health/ready"
        host.tell_when_ready(dict)

        async def ask() -> None:
            drained.append((await client.get(url)).status_code)

        host.on_drain(ask)
        serving = asyncio.create_task(host.serve(started=True))

        async def is_ready() -> bool:
            return (await client.get(url)).status_code == 200

        await wait_until(is_ready)
        host._on_signal(signal.SIGTERM)  # pyright: ignore[reportPrivateUsage]
        await asyncio.wait_for(serving, HANGS_AFTER_S)
    assert drained == [503]
