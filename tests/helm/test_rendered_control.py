"""Run the rendered control plane on this machine: on SQLite, and on a real PostgreSQL over TLS after its job."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import Process
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.postgresql import new_server
from tests.fixtures.tls import make_certificates
from tests.helm.cells import Values
from tests.helm.render import Object, container_of, read_objects, rendered, template
from tests.helm.test_control import one
from tests.helm.test_environment import environment
from tests.helm.test_rendered_services import HOST, Pod

SECRET = "s3cret/+=@%#-of-24-and-more"
"""The database's password, the admin key and the gateways' token."""


class ControlPod(Pod):
    """`moved`: paths of the pod → paths of this machine."""

    def __init__(self, found: Object, folder: Path, moved: Mapping[str, str]) -> None:
        self._paths = moved
        super().__init__(found, folder, folder, 0)

    def _read(self) -> dict[str, str]:
        return environment(self.container, SECRET, HOST)

    def _moved(self, value: str, model: Path, redis_port: int) -> str:
        return super()._moved(moved_path(value, self._paths), model, redis_port)

    async def organisations(self) -> int:
        """Ask the Admin API with the first admin key. Return the status."""
        url = f"http://{HOST}:{self.ports[self.names['http']]}/admin/v1/organisations"
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {SECRET}"}) as client:
            return (await client.get(url)).status_code

    async def is_whole(self, process: Process) -> None:
        """Start, answer, and end within the grace."""
        await self.start(process)
        assert await self.organisations() == 200
        assert await self.stop(process) == 0, self.log


def moved_path(value: str, paths: Mapping[str, str]) -> str:
    for old, new in paths.items():
        value = value.replace(old, new)
    return value


async def test_the_control_plane_on_sqlite_starts_answers_and_ends(tmp_path: Path) -> None:
    (tmp_path / "database").mkdir()
    found = one(rendered("helm-4", "control", "as it is"), "Deployment", "control")
    pod = ControlPod(found, tmp_path / "pod", {"/database/": f"{tmp_path}/database/"})
    async with pod.running() as process:
        await pod.is_whole(process)
    assert (tmp_path / "database/control.db").exists()


@pytest.fixture
def on_postgresql(tmp_path: Path) -> Iterator[tuple[Object, ...]]:
    """Render the chart for a PostgreSQL of this machine with TLS and a password, and an empty database."""
    certificates = make_certificates(tmp_path)
    with new_server() as server:
        server.start()
        name = urlsplit(server.new_database()).path.lstrip("/")
        port = server.serve_tls(certificates, SECRET)
        database: Values = {
            "host": HOST,
            "port": port,
            "name": name,
            "passwordSecret": {"name": "database"},
            "tls": {"caSecret": {"name": "database-ca"}},
        }
        ended = template("helm-4", "control", {"database": database, "replicas": 2})
        assert ended.returncode == 0, ended.stderr
        yield read_objects(ended.stdout)


async def test_the_control_plane_on_postgresql_starts_once_the_job_has_migrated(
    on_postgresql: tuple[Object, ...], tmp_path: Path
) -> None:
    paths = {"/database-tls/": f"{tmp_path}/"}
    deployment = one(on_postgresql, "Deployment", "control")
    early = ControlPod(deployment, tmp_path / "early", paths)
    async with early.running() as process:
        assert await process.wait() == 1
    assert "the schema is empty" in early.log
    job = container_of(one(on_postgresql, "Job", "control-migrate"))
    given = {name: moved_path(value, paths) for name, value in environment(job, SECRET, HOST).items()}
    inherited = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    migration = await asyncio.create_subprocess_exec(sys.executable, *job["command"][1:], env=inherited | given)
    assert await migration.wait() == 0
    pod = ControlPod(deployment, tmp_path / "pod", paths)
    async with pod.running() as process:
        await pod.is_whole(process)
