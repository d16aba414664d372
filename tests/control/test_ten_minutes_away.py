"""The control plane and its database are away for ten minutes, by the gateways' clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from sqlalchemy import select

from services.control.store.models import UsageRow
from services.gateway.auth import ApiKeys
from services.gateway.control.tenants import ControlTenants
from tests.control.conftest import TOKEN, RunningControl, opened, running_control
from tests.fixtures.ports import free_port
from tests.fixtures.postgresql import PostgreSqlServer, new_server
from tests.fixtures.redis import RedisServer, redis_server
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, RunningGateway, running_gateway
from tests.gateway.scripted.stages import CHAT, HELLO, scripted_stages

__all__ = ["redis_server"]

TEN_MINUTES_S = 600.0
PATIENCE_S = 250.0
MONTHLY = 8
"""Requests of the limited key."""


class Clock:
    """The clock by which gateways judge how old their tenants are."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.ahead_s = 0.0
        for make in (ApiKeys.__init__, ControlTenants.__init__):
            defaults: Any = make.__kwdefaults__
            monkeypatch.setitem(defaults, "clock", lambda: time.time() + self.ahead_s)


@asynccontextmanager
async def database() -> AsyncGenerator[tuple[PostgreSqlServer, str]]:
    with new_server() as server:
        await asyncio.to_thread(server.start)
        yield server, await asyncio.to_thread(server.new_database)


async def test_what_is_used_meanwhile_is_served_limited_and_recorded_once(
    redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, grpc_port = Clock(monkeypatch), free_port()
    settings: dict[str, Any] = {
        "api_key": "",
        "control_address": f"127.0.0.1:{grpc_port}",
        "control_token": SecretStr(TOKEN),
        "control_cache_file": tmp_path / "tenants",
        "control_max_age_s": 2 * TEN_MINUTES_S,
        "request_timeout_s": PATIENCE_S,
    }
    more: dict[str, Any] = {"grpc_port": grpc_port, "redis_url": redis_server.url}
    served: list[str] = []
    async with database() as (server, url), AsyncExitStack() as first:
        control = await first.enter_async_context(running_control(url, **more))
        project = await control.new_project()
        key, limited = await control.new_key(project), await control.new_key(project, "limited")
        terms = {"limits": {"requests_per_month": {"amount": MONTHLY}}}
        await control.put(f"/keys/{limited['id']}/terms", terms)
        async with scripted_stages(redis_server.url, workers=1, **settings) as stages:
            await wait_until(lambda: is_known(stages.gateway, limited["secret"]))
            served += [await ask(stages.gateway, each["secret"]) for each in (key, limited)]
            await wait_until(lambda: has_records(control, 2))
            await first.aclose()
            await asyncio.to_thread(server.stop)
            clock.ahead_s = TEN_MINUTES_S

            served += [await ask(stages.gateway, key["secret"]) for _ in range(20)]
            served += [await ask(stages.gateway, limited["secret"]) for _ in range(MONTHLY - 1)]
            assert await ask(stages.gateway, limited["secret"]) == "insufficient_quota"
            async with running_gateway(redis_server.url, **settings) as started:  # from its cache file
                served += [await ask(started, key["secret"]) for _ in range(3)]
                assert await ask(started, limited["secret"]) == "insufficient_quota"

            await asyncio.to_thread(server.start)
            async with running_control(url, **more) as back:
                await wait_until(lambda: has_records(back, len(served)))
                served.append(await ask(stages.gateway, key["secret"]))
                await wait_until(lambda: has_records(back, len(served)))
                assert await turns_of(url) == sorted(served)


async def ask(gateway: RunningGateway, secret: str) -> str:
    """Return the turn's id, or the code of what it was refused with."""
    headers = {"authorization": f"Bearer {secret}"}
    body = {"model": INSTRUCT.name, "messages": HELLO}
    answer = await gateway.client.post(CHAT, json=body, headers=headers, timeout=PATIENCE_S)
    return answer.headers["x-request-id"] if answer.status_code == 200 else answer.json()["error"]["code"]


async def is_known(gateway: RunningGateway, secret: str) -> bool:
    headers = {"authorization": f"Bearer {secret}"}
    return (await gateway.client.get("/v1/models", headers=headers)).status_code == 200


async def has_records(control: RunningControl, count: int) -> bool:
    rows = (await control.get("/usage?group=project"))["data"]
    return sum(row["requests"] for row in rows) == count


async def turns_of(url: str) -> list[str]:
    async with opened(url) as store, store.read() as session:
        return sorted((await session.scalars(select(UsageRow.turn_id))).all())
