"""`python -m services.gateway` as a process: gRPC, start and drain."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from antiphon.v1 import common_pb2, gateway_pb2, gateway_pb2_grpc, preprocess_pb2, thinker_pb2
from services.common.channels import open_channel
from services.common.grpc_errors import error_from_rpc
from services.common.queues import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, absent_workers, all_slots_taken

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEY = (("authorization", f"Bearer {API_KEY}"),)
HELLO = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="hello")])


@dataclass
class GatewayProcess:
    process: subprocess.Popen[bytes]
    ports: dict[str, int]
    channel: grpc.aio.Channel

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.ports['http']}"


async def start(store: RedisServer, folder: Path, **settings: str) -> GatewayProcess:
    ready = folder / "ready.json"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("ANTIPHON_")},
        "ANTIPHON_REDIS_URL": store.url,
        "ANTIPHON_HTTP_PORT": "0",
        "ANTIPHON_API_KEY": API_KEY,
        "ANTIPHON_READY_FILE": str(ready),
        "ANTIPHON_DRAIN_S": "5",
        "ANTIPHON_BODY_TIMEOUT_S": "5",
        "ANTIPHON_MAX_BODY_BYTES": "3000000",
        "ANTIPHON_MAX_MEDIA_BYTES": "2000000",
        **{f"ANTIPHON_{name.upper()}": value for name, value in settings.items()},
    }
    process = await asyncio.to_thread(subprocess.Popen, [sys.executable, "-m", "services.gateway"], env=environment)
    await wait_until(ready.exists)
    ports = json.loads(ready.read_text())
    return GatewayProcess(process, ports, open_channel(f"127.0.0.1:{ports['grpc']}"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GatewayProcess]:
    async with absent_workers(store.url, INSTRUCT):
        running = await start(store, tmp_path_factory.mktemp("gateway"))
        yield running
        await running.channel.close()
        running.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(running.process.wait, HANGS_AFTER_S) == 0


async def test_health_and_reflection_answer(gateway: GatewayProcess) -> None:
    health: Any = health_pb2_grpc.HealthStub(gateway.channel)
    for name in ("", "antiphon.v1.Gateway"):
        answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=HANGS_AFTER_S)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflect: Any = reflection_pb2_grpc.ServerReflectionStub(gateway.channel)  # pyright: ignore[reportArgumentType]
    asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    listed = [s.name async for r in reflect.ServerReflectionInfo(asked) for s in r.list_services_response.service]
    assert "antiphon.v1.Gateway" in listed


async def test_metrics_are_on_their_own_port(gateway: GatewayProcess) -> None:
    async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as client:
        page = (await client.get(f"http://127.0.0.1:{gateway.ports['metrics']}/metrics")).text
        assert "antiphon_gateway_live_turns" in page
        assert 'antiphon_queue_slots{model="tiny-instruct",stage="talker"} 2.0' in page
        assert "antiphon_gateway_ready 1.0" in page


def chunk(size: int, index: int = 0) -> gateway_pb2.ConverseRequest:
    return gateway_pb2.ConverseRequest(chunk=preprocess_pb2.InlineChunk(inline_index=index, data=bytes(size)))


async def converse(
    gateway: GatewayProcess, *requests: gateway_pb2.ConverseRequest, metadata: tuple[tuple[str, str], ...] = KEY
) -> tuple[grpc.StatusCode, str | None]:
    """Return (status, field at fault) of a call that fails."""
    call = gateway_pb2_grpc.GatewayStub(gateway.channel).Converse(
        iter(requests), metadata=metadata, timeout=HANGS_AFTER_S
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in call:
            pass
    return caught.value.code(), error_from_rpc(caught.value, "gateway").param


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
async def test_converse_needs_the_key(gateway: GatewayProcess, metadata: tuple[tuple[str, str], ...]) -> None:
    status, _ = await converse(gateway, metadata=metadata)
    assert status is grpc.StatusCode.UNAUTHENTICATED


def start_message(**fields: object) -> gateway_pb2.ConverseRequest:
    start = gateway_pb2.ConverseStart(**{"model": "tiny-instruct", "messages": [HELLO], **fields})  # type: ignore[arg-type]
    return gateway_pb2.ConverseRequest(start=start)


AUDIO = preprocess_pb2.AudioPart(source=preprocess_pb2.MediaSource(inline_index=0))
SPOKEN = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(audio=AUDIO)])


@pytest.mark.parametrize(
    ("requests", "status", "param"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT, "start"),
        (
            [gateway_pb2.ConverseRequest(chunk=preprocess_pb2.InlineChunk(data=b"x"))],
            grpc.StatusCode.INVALID_ARGUMENT,
            "start",
        ),
        ([start_message(messages=[])], grpc.StatusCode.INVALID_ARGUMENT, "messages"),
        ([start_message(model="gpt-4")], grpc.StatusCode.NOT_FOUND, "model"),
        ([start_message(priority=3)], grpc.StatusCode.INVALID_ARGUMENT, "priority"),
        (
            [start_message(output_modalities=[common_pb2.MODALITY_AUDIO])],
            grpc.StatusCode.INVALID_ARGUMENT,
            "output_modalities",
        ),
        (
            [start_message(output_modalities=[common_pb2.MODALITY_TEXT, common_pb2.MODALITY_AUDIO], voice="nobody")],
            grpc.StatusCode.INVALID_ARGUMENT,
            "voice",
        ),
        ([start_message(messages=[SPOKEN])], grpc.StatusCode.INVALID_ARGUMENT, "messages[0].parts[0]"),
        ([start_message(messages=[SPOKEN], inline_count=1)], grpc.StatusCode.INVALID_ARGUMENT, "chunk.data"),
        (
            [
                start_message(messages=[SPOKEN], inline_count=1),
                gateway_pb2.ConverseRequest(chunk=preprocess_pb2.InlineChunk(inline_index=1, data=b"x")),
            ],
            grpc.StatusCode.INVALID_ARGUMENT,
            "chunk.inline_index",
        ),
        (
            [start_message(messages=[preprocess_pb2.Message(role="narrator")])],
            grpc.StatusCode.INVALID_ARGUMENT,
            "messages[0].role",
        ),
        (
            [
                start_message(
                    messages=[preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="a" * 2**22)])]
                )
            ],
            grpc.StatusCode.INVALID_ARGUMENT,
            "messages",
        ),
        ([start_message(messages=[HELLO] * 2049)], grpc.StatusCode.INVALID_ARGUMENT, "messages"),
        ([start_message(conversation_id="c" * 513)], grpc.StatusCode.INVALID_ARGUMENT, "conversation_id"),
        (
            [start_message(sampling=thinker_pb2.ThinkerSampling(stop=["s"] * 17))],
            grpc.StatusCode.INVALID_ARGUMENT,
            "sampling.stop",
        ),
        ([start_message(messages=[preprocess_pb2.Message()] * 100_000)], grpc.StatusCode.INVALID_ARGUMENT, None),
        (
            [start_message(messages=[SPOKEN], inline_count=1), chunk(1_500_000), chunk(1_500_000)],
            grpc.StatusCode.INVALID_ARGUMENT,
            "chunk.data",
        ),
        (
            [start_message(messages=[SPOKEN], inline_count=2), chunk(1_900_000), chunk(1_900_000, index=1)],
            grpc.StatusCode.INVALID_ARGUMENT,
            "chunk.data",
        ),
        ([start_message()], grpc.StatusCode.UNAVAILABLE, None),
    ],
)
async def test_a_request_that_cannot_be_served_over_grpc_is_named(
    gateway: GatewayProcess, requests: list[gateway_pb2.ConverseRequest], status: grpc.StatusCode, param: str | None
) -> None:
    assert await converse(gateway, *requests) == (status, param)


async def test_a_call_without_half_close_ends_as_a_slow_body(gateway: GatewayProcess) -> None:
    stub = gateway_pb2_grpc.GatewayStub(gateway.channel)
    calls = [stub.Converse(metadata=KEY, timeout=HANGS_AFTER_S) for _ in range(2)]  # one of them sends nothing
    for request in (start_message(messages=[SPOKEN], inline_count=1), chunk(1000)):
        await calls[0].write(request)
    for call in calls:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert error_from_rpc(caught.value, "gateway").code == "body_timeout"


async def test_malformed_requests_are_invalid(gateway: GatewayProcess) -> None:
    call = gateway.channel.stream_stream("/antiphon.v1.Gateway/Converse")(
        iter([b"\xff" * 9]), metadata=KEY, timeout=HANGS_AFTER_S
    )
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_turns_that_outlast_the_drain_get_unavailable(
    gateway: GatewayProcess, store: RedisServer, tmp_path: Path
) -> None:
    queue = QueueName("preprocess", "tiny-instruct")
    ending = await start(store, tmp_path, drain_s="1", keep_alive_s="0.1")
    async with all_slots_taken(store.url, queue) as queues:  # for five seconds, so it comes after the start

        async def all_wait() -> bool:
            return (await queues.stats(queue)).depth == 3

        async with httpx.AsyncClient(headers=dict(KEY), timeout=HANGS_AFTER_S) as client:
            body = {"model": "tiny-instruct", "messages": [{"role": "user", "content": "hello"}]}
            url = f"{ending.http}/v1/chat/completions"
            whole = asyncio.create_task(client.post(url, json=body))
            streamed = asyncio.create_task(client.post(url, json={**body, "stream": True}))
            call = asyncio.create_task(converse(ending, start_message()))
            await wait_until(all_wait)
            ending.process.send_signal(signal.SIGTERM)
            response, stream = await whole, await streamed
        assert (response.status_code, response.json()["error"]["code"]) == (503, "unavailable")
        assert response.headers["retry-after"] == "1"
        assert stream.status_code == 200
        last = stream.text.rstrip().rpartition("\n")[2]
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "unavailable"
        assert await call == (grpc.StatusCode.UNAVAILABLE, None)
        await ending.channel.close()
        assert await asyncio.to_thread(ending.process.wait, HANGS_AFTER_S) == 0


async def test_without_a_collector_of_spans_it_answers_and_ends(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")  # seconds, for each batch; there is nobody to be in time
    running = await start(store, tmp_path, otlp_endpoint="http://127.0.0.1:1")
    async with httpx.AsyncClient(headers=dict(KEY), timeout=HANGS_AFTER_S) as client:
        assert (await client.get(f"{running.http}/v1/models")).status_code == 200
    assert (await converse(running, start_message()))[
        0
    ] is grpc.StatusCode.UNAVAILABLE  # there is no worker; it has a span
    await running.channel.close()
    running.process.send_signal(signal.SIGTERM)
    assert await asyncio.to_thread(running.process.wait, HANGS_AFTER_S) == 0


async def test_a_wrong_setting_stops_the_start_with_its_name(store: RedisServer) -> None:
    environment = {**os.environ, "ANTIPHON_REDIS_URL": store.url, "ANTIPHON_HTTP_PROT": "1"}
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.gateway"],
        env=environment,
        capture_output=True,
        timeout=HANGS_AFTER_S,
    )
    assert ended.returncode == 2
    assert b"ANTIPHON_HTTP_PROT: unknown setting" in ended.stderr
    assert b"ANTIPHON_API_KEY is required" in ended.stderr
