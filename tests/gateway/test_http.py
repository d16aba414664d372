"""The HTTP server: authentication, limits, and the form of errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio
from prometheus_client import REGISTRY

from services.common.queues import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import (
    API_KEY,
    CAPTIONER,
    INSTRUCT,
    MAX_BODY_BYTES,
    MAX_HEADER_BYTES,
    THINKING,
    RunningGateway,
    absent_workers,
    all_slots_taken,
    running_gateway,
)

pytestmark = pytest.mark.asyncio(loop_scope="module")
CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]
AUDIO_PART = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with absent_workers(store.url, INSTRUCT, THINKING, CAPTIONER), running_gateway(store.url) as running:
        yield running


async def raw(gateway: RunningGateway, request: bytes) -> bytes:
    """Send raw bytes and return the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1]
        )
        return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize(
    "path", ["/v1/models", CHAT, "/compatible-mode/v1/models", "/nothing", "/", "/metrics", "/metrics/", "//metrics"]
)
@pytest.mark.parametrize("key", ["", "Bearer wrong"])
async def test_everything_but_probes_needs_the_key(gateway: RunningGateway, path: str, key: str) -> None:
    response = await gateway.client.get(gateway.url + path, headers={"authorization": key})
    assert response.status_code == 401
    assert error_of(response)["type"] == "authentication_error"


async def test_the_host_header_does_not_bypass_the_key(gateway: RunningGateway) -> None:
    answer = await raw(gateway, b"GET /v1/models HTTP/1.1\r\nhost: x/health/live?\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 401")


async def test_metrics_are_not_on_the_public_port(gateway: RunningGateway) -> None:
    response = await gateway.client.get("/metrics")
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/health/live", "/health/ready"])
async def test_probes_are_open(gateway: RunningGateway, path: str) -> None:
    response = await gateway.client.get(path, headers={"authorization": ""})
    assert response.status_code == 200
    assert response.headers["x-request-id"]


async def test_metrics_show_the_queue_of_each_stage(gateway: RunningGateway) -> None:
    page = await gateway.scrape()
    assert 'antiphon_queue_slots{model="tiny-instruct",stage="talker"} 2.0' in page
    assert 'antiphon_queue_depth_tickets{model="tiny-thinking",stage="thinker"} 0.0' in page
    assert "antiphon_gateway_ready 1.0" in page


async def test_models_are_listed_as_openai_does(gateway: RunningGateway) -> None:
    client = openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=API_KEY)
    models = (await client.models.list()).data
    assert [m.id for m in models] == ["tiny-captioner", "tiny-instruct", "tiny-thinking"]
    one = await client.models.retrieve("tiny-instruct")
    assert (one.object, one.created, one.owned_by) == ("model", INSTRUCT.created_unix_s, "antiphon")
    assert one.model_dump()["voices"] == ["chelsie", "ethan"]
    with pytest.raises(openai.NotFoundError) as caught:
        await client.models.retrieve("some/other")
    assert caught.value.code == "model_not_found"
    await client.close()


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "unknown_url"),
        ("GET", "/v1/models/", 404, "model_not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("DELETE", "/v1/models/tiny-instruct", 405, "method_not_allowed"),
        ("POST", "/health/live", 405, "method_not_allowed"),
    ],
)
async def test_wrong_paths_and_methods_get_openai_errors(
    gateway: RunningGateway, method: str, path: str, status: int, code: str
) -> None:
    response = await gateway.client.request(method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)


async def test_broken_json_is_400(gateway: RunningGateway) -> None:
    response = await gateway.client.post(CHAT, content=b'{"model"', headers={"content-type": "application/json"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_json")


async def test_another_content_type_is_400(gateway: RunningGateway) -> None:
    response = await gateway.client.post(CHAT, data={"model": "x"})
    assert (response.status_code, error_of(response)["code"]) == (400, "invalid_content_type")


async def test_a_body_over_the_limit_is_413_before_it_is_read(gateway: RunningGateway) -> None:
    answer = await raw(
        gateway,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"
        % (API_KEY.encode(), 10**12),
    )
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in answer
    assert b"request_too_large" in answer


async def test_a_body_that_grows_over_the_limit_is_413(gateway: RunningGateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY_BYTES // 1000 + 2):
            yield b" " * 1000

    response = await gateway.client.post(CHAT, content=chunks())
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")


async def test_a_body_that_never_ends_is_408(gateway: RunningGateway) -> None:
    answer = await raw(
        gateway,
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: 10\r\n\r\n{"
        % API_KEY.encode(),
    )
    assert answer.startswith(b"HTTP/1.1 408")


async def test_giant_headers_are_431(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\nx-giant: ")
    await writer.drain()
    writer.write(b"a" * 40_000)
    assert (await asyncio.wait_for(reader.read(), 10)).startswith(b"HTTP/1.1 431")
    writer.close()


def with_headers(header_bytes: int, body: bytes = b"") -> bytes:
    """Return a request whose request line and headers take `header_bytes`."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n" % API_KEY.encode()
    head += b"content-length: %d\r\nx-giant: " % len(body)
    return head + b"a" * (header_bytes - len(head) - 4) + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (with_headers(40_000), b"431"),
        (with_headers(MAX_HEADER_BYTES + 1), b"431"),
        (with_headers(MAX_HEADER_BYTES), b"400"),
        (with_headers(1000, b" " * 2 * MAX_HEADER_BYTES), b"400"),
    ],
    ids=["giant", "a byte too many", "as many as may be", "a large body"],
)
async def test_the_header_limit_excludes_the_body(gateway: RunningGateway, request_: bytes, status: bytes) -> None:
    assert (await raw(gateway, request_)).startswith(b"HTTP/1.1 " + status)


async def test_the_header_limit_applies_to_each_request(gateway: RunningGateway) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    for _ in range(3):
        writer.write(with_headers(MAX_HEADER_BYTES - 10, b"no JSON"))
        head = await asyncio.wait_for(reader.readuntil(b"}}"), 10)
        assert head.startswith(b"HTTP/1.1 400")
    writer.close()


@pytest.mark.parametrize(
    ("fields", "status", "param", "code"),
    [
        ({"model": "gpt-4"}, 404, "model", "model_not_found"),
        ({}, 400, "model", "missing_required_parameter"),
        ({"model": "tiny-instruct", "temperatur": 1}, 400, "temperatur", "unknown_parameter"),
        (
            {"model": "tiny-instruct", "modalities": ["text", "audio"], "audio": {"voice": "alloy"}},
            400,
            "audio.voice",
            "invalid_voice",
        ),
        ({"model": "tiny-thinking", "modalities": ["text", "audio"]}, 400, "modalities", "invalid_value"),
        ({"model": "tiny-thinking", "enable_thinking": False}, 400, "enable_thinking", "invalid_value"),
        ({"model": "tiny-captioner"}, 400, "messages", "invalid_value"),
        ({"model": "tiny-instruct", "max_tokens": 1001}, 400, "max_tokens", "context_length_exceeded"),
        (
            {
                "model": "tiny-instruct",
                "messages": [{"role": "user", "content": [{**AUDIO_PART, "input_audio": {"data": "!"}}]}],
            },
            400,
            "messages[0].content[0].input_audio.data",
            "invalid_base64",
        ),
        (
            {
                "model": "tiny-instruct",
                "messages": [{"role": "user", "content": [{**AUDIO_PART, "input_audio": {"data": "A" * 100_000}}]}],
            },
            413,
            "messages[0].content[0].input_audio.data",
            "media_too_large",
        ),
        ({"messages": [{"role": "user", "content": "a" * 98_304}]}, 413, "messages", "text_too_large"),
        ({"metadata": [[]] * 33_000}, 413, "messages", "text_too_large"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_cannot_be_served_is_named(
    gateway: RunningGateway, fields: dict[str, Any], status: int, param: str, code: str, stream: bool
) -> None:
    response = await gateway.client.post(CHAT, json={"messages": HELLO, "stream": stream, **fields})
    error = error_of(response)
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)


@pytest.mark.parametrize("stream", [False, True])
async def test_absent_workers_are_tried_and_then_503(gateway: RunningGateway, stream: bool) -> None:
    response = await gateway.client.post(CHAT, json={"model": "tiny-instruct", "messages": HELLO, "stream": stream})
    assert (response.status_code, error_of(response)["code"]) == (503, "worker_lost")
    assert 0 < int(response.headers["retry-after-ms"]) <= 60_000
    assert int(response.headers["retry-after"]) >= 1
    assert "x-should-retry" not in response.headers


async def test_the_deadline_in_the_header_ends_the_wait(gateway: RunningGateway, store: RedisServer) -> None:
    async with all_slots_taken(store.url, QueueName("preprocess", "tiny-thinking")):
        response = await gateway.client.post(
            CHAT,
            json={"model": "tiny-thinking", "messages": HELLO},
            headers={"x-request-timeout-ms": "300"},
        )
    assert response.status_code in (429, 504)
    for wrong in ("0", "-1", "abc"):
        response = await gateway.client.post(CHAT, json={"messages": HELLO}, headers={"x-request-timeout-ms": wrong})
        assert response.status_code == 400


@pytest.mark.parametrize(
    ("operators_s", "headers", "outcome"),
    [(0.3, {}, "deadline_exceeded"), (20.0, {"x-request-timeout-ms": "300"}, "client_deadline")],
)
async def test_a_client_deadline_has_its_own_outcome(
    redis_server: RedisServer, operators_s: float, headers: dict[str, str], outcome: str
) -> None:
    def turns(outcome: str) -> float:
        labels = {"outcome": outcome, "speech": "false", "tenant": "default"}
        return REGISTRY.get_sample_value("antiphon_gateway_turns_total", labels) or 0.0

    outcomes = ("deadline_exceeded", "client_deadline")
    before = {name: turns(name) for name in outcomes}
    async with (
        absent_workers(redis_server.url, THINKING),
        all_slots_taken(redis_server.url, QueueName("preprocess", "tiny-thinking")),
        running_gateway(redis_server.url, request_timeout_s=operators_s) as hurried,
    ):
        response = await hurried.client.post(CHAT, json={"messages": HELLO}, headers=headers)
    assert (response.status_code, error_of(response)["code"]) == (504, "deadline_exceeded")
    assert {name: turns(name) - before[name] for name in outcomes} == {
        name: float(name == outcome) for name in outcomes
    }


async def test_a_waiting_stream_gets_comment_lines_and_ends_with_a_late_error(
    gateway: RunningGateway, store: RedisServer
) -> None:
    body = {"model": "tiny-thinking", "messages": HELLO, "stream": True}
    async with (
        all_slots_taken(store.url, QueueName("preprocess", "tiny-thinking")),
        running_gateway(store.url, keep_alive_s=0.05) as silent,
        silent.client.stream("POST", CHAT, json=body) as response,
    ):
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        lines = response.aiter_lines()
        assert [await anext(lines) for _ in range(4)] == [": keep-alive", "", ": keep-alive", ""]
        silent.turns.cut()
        told = [line async for line in lines if line.startswith("data: ")]
    assert [json.loads(line.removeprefix("data: "))["error"]["code"] for line in told] == ["unavailable"]


async def test_a_client_that_leaves_leaves_no_ticket_behind(gateway: RunningGateway, store: RedisServer) -> None:
    queue = QueueName("preprocess", "tiny-thinking")
    async with all_slots_taken(store.url, queue) as queues:
        body = json.dumps({"model": "tiny-thinking", "messages": HELLO, "stream": True}).encode()
        _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n%b"
            % (API_KEY.encode(), len(body), body)
        )

        async def depth() -> int:
            return (await queues.stats(queue)).depth

        async def one_waits() -> bool:
            return await depth() == 1

        async def none_waits() -> bool:
            return await depth() == 0

        await wait_until(one_waits)
        writer.close()
        await wait_until(none_waits, within_s=5)


async def test_openais_client_sees_its_own_errors(gateway: RunningGateway) -> None:
    client = openai.AsyncOpenAI(base_url=gateway.url + "/v1", api_key=API_KEY, max_retries=0)
    stranger = client.with_options(api_key="wrong")
    hello: Any = HELLO
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="tiny-instruct", messages=hello, temperature=9)
    assert (bad.value.param, bad.value.code) == ("temperature", "invalid_value")
    assert bad.value.request_id is not None
    with pytest.raises(openai.AuthenticationError):
        await stranger.chat.completions.create(model="tiny-instruct", messages=hello)
    with pytest.raises(openai.NotFoundError):
        await client.chat.completions.create(model="gpt-4", messages=hello)
    with pytest.raises(openai.InternalServerError):
        await client.chat.completions.create(model="tiny-instruct", messages=hello, stream=True)
    await client.close()


async def test_while_draining_new_turns_are_refused(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        await gateway.turns.drain()
        assert (await gateway.client.get("/health/ready")).status_code == 503
        response = await gateway.client.post(CHAT, json={"model": "tiny-thinking", "messages": HELLO})
        assert response.status_code == 503
        assert response.headers["retry-after"] == "1"


async def test_without_workers_it_is_live_and_not_ready(redis_server: RedisServer) -> None:
    async with running_gateway(redis_server.url, api_key="", allow_anonymous=True) as gateway:
        assert (await gateway.client.get("/health/live")).status_code == 200
        assert (await gateway.client.get("/health/ready")).status_code == 503
        assert (await gateway.client.get("/v1/models")).json() == {"object": "list", "data": []}
        response = await gateway.client.post(CHAT, json={"model": "m", "messages": HELLO})
        assert response.status_code == 503
        assert "retry-after" in response.headers


async def test_without_the_queues_store_it_answers_503_and_recovers(redis_server: RedisServer) -> None:
    async with running_gateway(redis_server.url) as gateway:
        redis_server.kill()
        response = await gateway.client.post(CHAT, json={"model": "m", "messages": HELLO})
        assert response.status_code == 503
        assert "retry-after" in response.headers
        assert (await gateway.client.get("/health/ready")).json()["reason"] == "the queues' store does not answer"
        page = await gateway.scrape()
        assert "antiphon_gateway_ready 0.0" in page
        assert "antiphon_queue_slots{" not in page
        assert (await gateway.client.get("/health/live")).status_code == 200
        redis_server.start()

        async def lists_models() -> bool:
            return (await gateway.client.get("/v1/models")).status_code == 200

        await wait_until(lists_models)
