"""Stores on a Redis of the test's own module."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

import pytest

from services.common.redis_client import RedisClient, connect
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from tests.fixtures.redis import RedisServer


@pytest.fixture
async def redis(store: RedisServer) -> AsyncGenerator[RedisClient]:
    client = connect(store.url)
    yield client
    await client.aclose()


StoreOf = Callable[[str, KeptLimits], RedisKept]


@pytest.fixture
def store_of(redis: RedisClient) -> StoreOf:
    return lambda kind, limits: RedisKept(redis, kind, limits)


def keys_of(kind: str, server: RedisServer) -> list[bytes]:
    """Return all keys of a kind of values."""
    with server.client() as client:
        return list(client.scan_iter(f"*kept:{kind}*"))
