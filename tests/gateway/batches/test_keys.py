"""Under which key lines run, and what becomes of them once it is no longer valid."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_patience import patience_with_redis
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import Batching, line
from tests.gateway.scripted.stages import Stages, scripted_stages

LINES = 8
DOWNLOAD_BYTES = 16 << 20
"""More than sockets buffer on either side."""
UPLOAD = (
    "content-type: multipart/form-data; boundary=b",
    f"content-length: {DOWNLOAD_BYTES}",
    "expect: 100-continue",
)
PART = (
    b'--b\r\ncontent-disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--b\r\ncontent-disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\nhalf'
)


async def test_lines_of_a_revoked_key_end_with_it(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.batches.lines._RETRY_S", 0.01)
    async with two_keys(store, tmp_path) as (control, stages, key, other):
        await _run(control, stages, tmp_path, key, other)


async def test_uploads_and_downloads_of_a_revoked_key_end_with_it(store: RedisServer, tmp_path: Path) -> None:
    async with two_keys(store, tmp_path) as (control, stages, key, other), _client(stages, key["secret"]) as client:
        await wait_until(lambda: _is_known(client))
        large = await Batching(control, stages, tmp_path, client).upload(b"x" * DOWNLOAD_BYTES)
        file, port = large.json()["id"], stages.gateway.gateway.http_port
        async with _request(port, key["secret"], f"GET /v1/files/{file}/content") as (slow, _):
            assert b" 200 " in await slow.readline()
            async with _request(port, key["secret"], "POST /v1/files", *UPLOAD) as (answer, to_server):
                assert b" 100 " in await answer.readline()  # it reads the body
                to_server.write(PART)
                await control.post(f"/keys/{key['id']}/revoke", status=200)
                refused = await answer.read()
                assert b" 401 " in refused
                assert b"revoked_api_key" in refused
            assert len(await slow.read()) < DOWNLOAD_BYTES
        async with _client(stages, other["secret"]) as client:
            await wait_until(lambda: _is_known(client))
            assert [each["id"] for each in (await client.get("/v1/files")).json()["data"]] == [file]


@asynccontextmanager
async def two_keys(
    store: RedisServer, folder: Path
) -> AsyncGenerator[tuple[RunningControl, Stages, dict[str, Any], dict[str, Any]]]:
    """Run a control plane, stages, and a gateway with files. Yield two keys of one project with them."""
    with patience_with_redis():
        async with running_control(f"sqlite:///{folder}/control.db", redis_url=store.url) as control:
            project = await control.new_project()
            key, other = await control.new_key(project), await control.new_key(project, "second")
            settings: dict[str, Any] = {
                "api_key": "",
                "control_address": control.address,
                "control_token": SecretStr(TOKEN),
                "object_store_url": f"file://{folder}/objects",
            }
            async with scripted_stages(store.url, workers=1, slots=4, **settings) as stages:
                yield control, stages, key, other


def _client(stages: Stages, secret: str) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {secret}"}
    return httpx.AsyncClient(base_url=stages.gateway.url, headers=headers, timeout=60)


@asynccontextmanager
async def _request(
    port: int, secret: str, line: str, *headers: str
) -> AsyncGenerator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Send a request without its body, from a client that takes little before it reads."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=connection, limit=4096)
    try:
        lines = [f"{line} HTTP/1.1", "host: gateway", f"authorization: Bearer {secret}", *headers]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def _run(
    control: RunningControl, stages: Stages, folder: Path, key: dict[str, Any], other: dict[str, Any]
) -> None:
    async with _client(stages, key["secret"]) as first, _client(stages, other["secret"]) as second:
        await wait_until(lambda: _is_known(second))
        [thinker] = stages.thinker
        thinker.engine.may_step.clear()
        made = await Batching(control, stages, folder, first).create([line(f"line-{n}") for n in range(LINES)])
        world = Batching(control, stages, folder, second)
        await wait_until(lambda: thinker.engine.inside)
        await control.post(f"/keys/{key['id']}/revoke", status=200)
        await wait_until(lambda: _is_refused(first))
        thinker.engine.may_step.set()
        done = await world.ended(made["id"])
        assert done["request_counts"] == {"total": LINES, "completed": 0, "failed": LINES}
        errors = await world.lines_of(done["error_file_id"])
    assert {each["custom_id"] for each in errors} == {f"line-{n}" for n in range(LINES)}
    assert {each["error"]["code"] for each in errors} == {"key_revoked"}
    await wait_until(stages.clean)


async def _is_known(client: httpx.AsyncClient) -> bool:
    return (await client.get("/v1/models")).status_code == 200


async def _is_refused(client: httpx.AsyncClient) -> bool:
    return (await client.get("/v1/models")).status_code == 401
