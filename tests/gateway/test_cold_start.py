"""A gateway with a cold start serves a model whose workers are scaled to zero."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from services.common.queues import QueueClient, QueueName, QueueStats
from services.common.redis_client import connect
from services.gateway.directory import model_of
from services.gateway.settings import GatewaySettings
from services.gateway.turn.model import Model, ModelKind
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, RunningGateway, absent_workers, running_gateway

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


async def all_stages_were_here(url: str) -> None:
    """Make every queue known and leave it without workers."""
    redis = connect(url)
    looks = QueueClient(redis, "looks")
    async with absent_workers(url, INSTRUCT):
        await wait_until(partial(is_served, looks))
    await redis.aclose()


async def is_served(looks: QueueClient) -> bool:
    models = await looks.models()
    return INSTRUCT.name in models and model_of(models[INSTRUCT.name]).is_whole


async def chat(gateway: RunningGateway, **fields: object) -> int:
    body = {"model": INSTRUCT.name, "messages": HELLO, **fields}
    return (await gateway.client.post(CHAT, json=body)).status_code


async def test_a_gateway_scaled_to_zero_is_ready_and_lists_the_model(redis_server: RedisServer) -> None:
    await all_stages_were_here(redis_server.url)
    async with running_gateway(redis_server.url, cold_start_s=20) as gateway:
        assert (await gateway.client.get("/health/ready")).status_code == 200
        models = (await gateway.client.get("/v1/models")).json()["data"]
        assert [(model["id"], model["voices"]) for model in models] == [(INSTRUCT.name, list(INSTRUCT.voices))]
        page = await gateway.scrape()
        assert f'antiphon_queue_live_workers{{model="{INSTRUCT.name}",stage="thinker"}} 0.0' in page


async def test_without_a_cold_start_the_model_is_away(redis_server: RedisServer) -> None:
    await all_stages_were_here(redis_server.url)
    async with running_gateway(redis_server.url) as gateway:
        assert (await gateway.client.get("/health/ready")).status_code == 503
        assert await chat(gateway) == 503


async def test_a_request_is_checked_against_the_card_before_anything_starts(redis_server: RedisServer) -> None:
    await all_stages_were_here(redis_server.url)
    async with running_gateway(redis_server.url, cold_start_s=20) as gateway:
        assert await chat(gateway, modalities=["text", "audio"], audio={"voice": "nobody", "format": "wav"}) == 400
        assert await chat(gateway, max_tokens=1001) == 400
        assert await chat(gateway, model="another") == 404


@pytest.mark.parametrize("speech", [False, True])
async def test_a_request_wakes_all_its_stages_at_once(redis_server: RedisServer, speech: bool) -> None:
    await all_stages_were_here(redis_server.url)
    spoken = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}} if speech else {}
    redis = connect(redis_server.url)
    looks = QueueClient(redis, "looks")
    async with running_gateway(redis_server.url, cold_start_s=20) as gateway:
        waiting = asyncio.create_task(chat(gateway, **spoken))
        await wait_until(partial(depth_is, looks, "preprocess", 1))
        woken = {stage: (await stats(looks, stage)).woken for stage in ("preprocess", "thinker", "talker")}
        assert woken == {"preprocess": True, "thinker": True, "talker": speech}
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await wait_until(partial(depth_is, looks, "preprocess", 0))
    await redis.aclose()


async def stats(looks: QueueClient, stage: str) -> QueueStats:
    return await looks.stats(QueueName(stage, INSTRUCT.name))


async def depth_is(looks: QueueClient, stage: str, depth: int) -> bool:
    return (await stats(looks, stage)).depth == depth


async def test_a_request_without_a_started_worker_gets_503_with_retry_after(redis_server: RedisServer) -> None:
    await all_stages_were_here(redis_server.url)
    async with running_gateway(redis_server.url, cold_start_s=0.5) as gateway:
        answer = await gateway.client.post(CHAT, json={"model": INSTRUCT.name, "messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    ("asleep", "whole"), [({"talker"}, True), ({"preprocess", "thinker", "talker"}, True), (set[str](), False)]
)
def test_a_stage_started_on_demand_counts_as_live(asleep: set[str], whole: bool) -> None:
    live = frozenset({"preprocess", "thinker"} - asleep)
    model = Model("m", ModelKind.INSTRUCT, 1000, voices=("ethan",), stages=live, asleep=frozenset(asleep))
    assert model.is_whole is whole


def test_a_cold_start_longer_than_the_deadline_is_refused() -> None:
    with pytest.raises(ValueError, match="ANTIPHON_COLD_START_S"):
        GatewaySettings(redis_url="redis://x", allow_anonymous=True, request_timeout_s=10, cold_start_s=11)
