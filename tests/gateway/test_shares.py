"""Two tenants that want one thinker: in which order their requests reach it."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

from tests.fixtures.redis import RedisServer, redis_server
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages

__all__ = ["redis_server"]

KEYS = {"a": "key-of-tenant-a", "b": "key-of-tenant-b"}
SLOTS = 2


@asynccontextmanager
async def one_thinker(store: RedisServer, **weights: float) -> AsyncGenerator[Stages]:
    """Run a thinker that begins no answer before `may_step`, and whose slots another tenant's requests hold."""
    settings: dict[str, Any] = {
        "api_key": "key-of-another",
        "tenant_keys": {name: [hashlib.sha256(key.encode()).hexdigest()] for name, key in KEYS.items()},
        "tenant_terms": {name: {"weight": weight} for name, weight in weights.items()},
        "request_timeout_s": 250.0,
    }
    async with scripted_stages(store.url, workers=1, slots=SLOTS, **settings) as stages:
        stages.thinker[0].engine.may_step.clear()
        held = [asyncio.create_task(ask(stages, "key-of-another")) for _ in range(SLOTS)]
        await wait_until(lambda: len(stages.calls("thinker")) == SLOTS)
        yield stages
        await asyncio.gather(*held)


async def ask(stages: Stages, key: str) -> int:
    body = {"model": INSTRUCT.name, "messages": HELLO}
    answer = await stages.gateway.client.post(
        CHAT, json=body, headers={"authorization": f"Bearer {key}"}, timeout=HANGS_AFTER_S
    )
    return answer.status_code


async def order(stages: Stages, **requests: int) -> list[str]:
    """Let tenants ask so often, one after the other, before the thinker begins. Return whose requests it got."""
    asked: list[asyncio.Task[int]] = []
    for name, count in requests.items():
        asked += [asyncio.create_task(ask(stages, KEYS[name])) for _ in range(count)]
        waiting = len(asked)
        await wait_until(lambda waiting=waiting: stages.has_waiting("thinker", waiting))
    stages.thinker[0].engine.may_step.set()
    assert set(await asyncio.gather(*asked)) == {200}
    return [call.context.tenant for call in stages.calls("thinker")[SLOTS:]]


async def test_one_request_waits_for_no_flood(redis_server: RedisServer) -> None:
    async with one_thinker(redis_server) as stages:
        assert "b" in (await order(stages, a=40, b=1))[: SLOTS + 1]


async def test_tenants_with_equal_weights_take_turns(redis_server: RedisServer) -> None:
    async with one_thinker(redis_server) as stages:
        began = Counter((await order(stages, a=40, b=10))[:20])
        assert abs(began["b"] - 10) <= 1


async def test_twice_the_weight_gets_twice_the_answers(redis_server: RedisServer) -> None:
    async with one_thinker(redis_server, a=2.0, b=1.0) as stages:
        began = Counter((await order(stages, a=40, b=40))[:60])
        assert 1.8 <= began["a"] / began["b"] <= 2.2
