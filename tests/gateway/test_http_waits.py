"""Requests that wait: absent workers, deadlines, drains, and a queues' store that is away or full."""

from __future__ import annotations

import asyncio
import json

import pytest
from prometheus_client import REGISTRY

from services.common.queues import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import (
    API_KEY,
    THINKING,
    RunningGateway,
    absent_workers,
    all_slots_taken,
    running_gateway,
)
from tests.gateway.http_server import CHAT, HELLO, error_of, gateway

__all__ = ["gateway"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


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
            headers={"x-request-timeout-ms": "2000"},
        )
    assert response.status_code in (429, 504)
    assert int(response.headers["retry-after-ms"]) >= 1000  # nothing was wrong with it
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
        await wait_until(none_waits)


async def test_a_gateway_that_leaves_is_not_ready_and_serves(store: RedisServer) -> None:
    """Load balancers have yet to notice. Each response ends its connection, so that clients connect elsewhere."""
    async with running_gateway(store.url) as gateway:
        assert "connection" not in (await gateway.client.get("/v1/models")).headers
        gateway.gateway.leave()
        for path, status in (("/health/ready", 503), ("/v1/models", 200)):
            response = await gateway.client.get(path)
            assert (response.status_code, response.headers["connection"]) == (status, "close")


async def test_a_drain_closes_idle_connections(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        assert b"200 OK" in await reader.readuntil(b"\r\n\r\n")
        gateway.gateway.leave()
        await gateway.gateway.drain()
        assert await reader.read() == b'{"status": "ok"}'  # and the end
        writer.close()


async def test_while_draining_new_turns_are_refused(store: RedisServer) -> None:
    async with running_gateway(store.url) as gateway:
        await gateway.gateway.drain()
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


async def test_a_full_queues_store_gives_503_until_it_has_room(redis_server: RedisServer) -> None:
    async with absent_workers(redis_server.url, THINKING), running_gateway(redis_server.url) as gateway:

        async def refusal() -> str:
            response = await gateway.client.post(CHAT, json={"model": "tiny-thinking", "messages": HELLO})
            assert response.status_code == 503
            assert "retry-after" in response.headers
            return response.json()["error"]["code"]

        with redis_server.client() as redis:
            redis.config_set("maxmemory-policy", "noeviction")
            redis.config_set("maxmemory", "1mb")
            assert await refusal() == "unavailable"
            redis.config_set("maxmemory", "0")

            async def workers_are_tried() -> bool:
                return await refusal() == "worker_lost"

            await wait_until(workers_are_tried)


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
