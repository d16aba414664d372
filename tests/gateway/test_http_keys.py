"""What needs a key over HTTP, what does not, and what a key lists."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import (
    API_KEY,
    INSTRUCT,
    THINKING,
    RunningGateway,
    absent_workers,
    running_gateway,
)
from tests.gateway.http_server import CHAT, HELLO, error_of, gateway, raw

__all__ = ["gateway"]

pytestmark = pytest.mark.asyncio(loop_scope="module")


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


@pytest.mark.parametrize("path", ["/metrics", "/health/metrics", "/v1/metrics", "/%6detrics", "/metrics?name[]=a"])
async def test_metrics_are_not_on_the_public_port(gateway: RunningGateway, path: str) -> None:
    response = await gateway.client.get(path)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")


@pytest.mark.parametrize("path", ["/health", "/health/live", "/health/ready"])
async def test_probes_are_open(gateway: RunningGateway, path: str) -> None:
    response = await gateway.client.get(path, headers={"authorization": ""})
    assert response.status_code == 200
    assert response.headers["x-request-id"]


async def test_metrics_show_the_queue_of_each_stage(gateway: RunningGateway) -> None:
    page = await gateway.scrape()
    assert 'antiphon_queue_slots{model="tiny-instruct",stage="talker"} 2.0' in page
    assert 'antiphon_queue_depth_tickets{model="tiny-thinking",stage="thinker"} 0.0' in page
    assert "antiphon_gateway_ready 1.0" in page


async def test_a_scrape_costs_the_same_with_more_workers(redis_server: RedisServer) -> None:
    """In commands of Redis, those of scripts included, and in series. Heartbeats only ever add to the commands."""

    async def cost(gateway: RunningGateway) -> tuple[int, int]:
        with redis_server.client() as redis:
            before = _commands(redis.info("commandstats"))
            series = sum(line.startswith("antiphon_queue") for line in (await gateway.scrape()).splitlines())
            return _commands(redis.info("commandstats")) - before, series

    async def shows(gateway: RunningGateway, workers: int) -> bool:
        shown = f'antiphon_queue_live_workers{{model="tiny-thinking",stage="thinker"}} {workers}.0'
        return shown in await gateway.scrape()

    async with running_gateway(redis_server.url) as gateway, absent_workers(redis_server.url, THINKING):
        await wait_until(lambda: shows(gateway, 1))
        few = min([await cost(gateway) for _ in range(5)])
        async with absent_workers(redis_server.url, *[THINKING] * 10):
            await wait_until(lambda: shows(gateway, 11))
            assert min([await cost(gateway) for _ in range(20)]) <= few


def _commands(stats: Any) -> int:
    return sum(int(row["calls"]) for row in stats.values())


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
