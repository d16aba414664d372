"""Limits over three gateways with real HTTP servers, on scripted workers: no more than a limit, and no less."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

import httpx
import pytest

from antiphon.v1 import control_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT, running_gateway
from tests.gateway.scripted.control_plane import KEY, limit, scripted_control
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS, Story
from tests.gateway.scripted.usage_records import forget_usage, open_accounts, usage_records

BODY = {"model": INSTRUCT.name, "messages": HELLO}
AS_KEY = {"authorization": f"Bearer {KEY}"}
STORY = Story(words=40, frames=30)
TEXT_DRAW, SPEECH_DRAW = 8, 5


@asynccontextmanager
async def three_gateways(
    store: RedisServer, *limits: control_pb2.Limit, story: Story = STORY, slots: int = 2
) -> AsyncGenerator[Sequence[Stages]]:
    """Return the stages three times, each time behind another gateway. The limits are the organisation's."""
    await forget_usage(store)
    async with scripted_control() as control, AsyncExitStack() as stack:
        control.limit("org_1", *limits)
        settings: dict[str, Any] = {
            **control.settings,
            "limit_text_tokens": TEXT_DRAW,
            "limit_audio_ms": 80 * SPEECH_DRAW,
            "request_timeout_s": 250.0,
        }
        first = await stack.enter_async_context(scripted_stages(store.url, story, slots=slots, **settings))
        others = [await stack.enter_async_context(running_gateway(store.url, **settings)) for _ in range(2)]
        gateways = [first, *(replace(first, gateway=other) for other in others)]
        for one in gateways:
            await wait_until(lambda one=one: is_ready(one))
        yield gateways
        await wait_until(first.clean)


async def is_ready(stages: Stages) -> bool:
    return (await stages.gateway.client.get("/health/ready")).status_code == 200


async def statuses(gateways: Sequence[Stages], count: int) -> Counter[int]:
    """Ask so often at the same time. Return the answers' statuses."""
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=None)
        clients = [
            await stack.enter_async_context(
                httpx.AsyncClient(base_url=one.gateway.url, headers=AS_KEY, limits=limits, timeout=HANGS_AFTER_S)
            )
            for one in gateways
        ]
        asked = [clients[number % len(clients)].post(CHAT, json=BODY) for number in range(count)]
        return Counter(answer.status_code for answer in await asyncio.gather(*asked))


async def test_of_four_hundred_requests_at_once_a_hundred_are_admitted(store: RedisServer) -> None:
    story = Story(words=2)
    async with three_gateways(store, limit("requests_per_minute", 100), story=story, slots=50) as gateways:
        began_s = time.monotonic()
        answers = await statuses(gateways, 400)
        assert answers[200] + answers[429] == 400
        assert 100 <= answers[200] <= 100 * minutes_since(began_s)
        await wait_until(lambda: has_records(store, answers[200]))


async def test_no_more_than_the_limit_run_at_a_time(store: RedisServer) -> None:
    """None of those that are admitted ends before all others are refused."""
    async with three_gateways(store, limit("concurrent_requests", 20), slots=10) as gateways:
        for _ in range(2):  # those that ended make room for as many
            for worker in gateways[0].thinker:
                worker.engine.may_step.clear()
            answers = Counter[int]()
            asked = [asyncio.create_task(count_status(gateways[n % 3], answers)) for n in range(60)]
            await wait_until(lambda answers=answers: answers[429] == 40)
            assert await open_accounts(store) == 20
            for worker in gateways[0].thinker:
                worker.engine.may_step.set()
            await asyncio.gather(*asked)
            assert answers == {200: 20, 429: 40}
            await wait_until(lambda: has_no_account(store))


async def count_status(stages: Stages, answers: Counter[int]) -> None:
    answers[(await stages.gateway.client.post(CHAT, json=BODY, headers=AS_KEY)).status_code] += 1


async def has_no_account(store: RedisServer) -> bool:
    return not await open_accounts(store)


@pytest.mark.parametrize("most", [200, 203])
async def test_texts_over_all_gateways_end_at_their_limit(store: RedisServer, most: int) -> None:
    async with three_gateways(store, limit("answer_tokens_per_minute", most), slots=10) as gateways:
        began_s = time.monotonic()
        told = await ask_all(gateways, 12)
        minutes = minutes_since(began_s)
        received = [len(answer.token_ids) for answer in told]
        assert most - TEXT_DRAW <= sum(received) <= most * minutes
        check_cut(told, received, 41)
        await wait_until(lambda: has_records(store, sum(count > 0 for count in received)))
        records = await usage_records(store)
        assert sum(record.amounts.completion_text_tokens for record in records) == sum(received)


async def test_speech_over_all_gateways_ends_at_its_limit(store: RedisServer) -> None:
    most = 151
    async with three_gateways(store, limit("audio_out_ms_per_minute", 80 * most), slots=10) as gateways:
        began_s = time.monotonic()
        told = await ask_all(gateways, 9, **SPEECH)
        minutes = minutes_since(began_s)
        received = [len(answer.codes) // CODEBOOKS for answer in told]
        assert most - SPEECH_DRAW <= sum(received) <= most * minutes
        check_cut(told, received, 30)


def minutes_since(began_s: float) -> int:
    """Return how many minutes were begun: a busy machine needs more than one, and each has the limit anew."""
    return 1 + int((time.monotonic() - began_s) // 60)


async def ask_all(gateways: Sequence[Stages], count: int, **fields: Any) -> list[Told]:
    asked = [gateways[number % 3].ask(HELLO, headers=AS_KEY, **fields) for number in range(count)]
    return await asyncio.gather(*asked)


def check_cut(told: Sequence[Told], received: Sequence[int], whole: int) -> None:
    """Assert that each answer is whole, was cut at the limit, or was refused since nothing was left."""
    for answer, count in zip(told, received, strict=True):
        if answer.error is not None:
            assert (answer.error["code"], count) == ("rate_limit_exceeded", 0)
        else:
            assert answer.finish_reason == ("stop" if count == whole else "length")


async def has_records(store: RedisServer, count: int) -> bool:
    return len(await usage_records(store)) == count
