"""Responses that are kept, where their store fails."""

from __future__ import annotations

import pytest

from services.common.errors import Unavailable
from services.common.redis_client import connect
from services.gateway.http.responses.kept import KeptResponses
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from tests.fixtures.redis import RedisServer


async def test_without_its_store_a_response_is_not_kept(redis_server: RedisServer) -> None:
    redis = connect(redis_server.url)
    try:
        kept = KeptResponses(RedisKept(redis, "response", KeptLimits(60, 1 << 20, 1 << 20)), 1 << 20)
        assert await kept.keep("acme", {"id": "resp_1", "output": []}, b"[]")
        assert (await kept.response("acme", "resp_1"))["output"] == []
        redis_server.kill()
        assert not await kept.keep("acme", {"id": "resp_2", "output": []}, b"[]")
        with pytest.raises(Unavailable):
            await kept.response("acme", "resp_1")
    finally:
        await redis.aclose()
