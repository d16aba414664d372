"""Under which key lines run, and what becomes of them once it is no longer valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from tests.control.conftest import TOKEN, running_control
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_patience import patience_with_redis
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import Batching, line
from tests.gateway.scripted.stages import scripted_stages

LINES = 8


async def test_lines_of_a_revoked_key_end_with_it(
    store: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.batches.lines._RETRY_S", 0.01)
    with patience_with_redis():
        async with running_control(f"sqlite:///{tmp_path}/control.db", redis_url=store.url) as control:
            project = await control.new_project()
            key, other = await control.new_key(project), await control.new_key(project, "second")
            settings: dict[str, Any] = {
                "api_key": "",
                "control_address": control.address,
                "control_token": SecretStr(TOKEN),
                "object_store_url": f"file://{tmp_path}/objects",
            }
            async with scripted_stages(store.url, workers=1, slots=4, **settings) as stages:
                await _run(control, stages, tmp_path, key, other)


async def _run(control: Any, stages: Any, folder: Path, key: dict[str, Any], other: dict[str, Any]) -> None:
    def client(secret: str) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {secret}"}
        return httpx.AsyncClient(base_url=stages.gateway.url, headers=headers, timeout=60)

    async with client(key["secret"]) as first, client(other["secret"]) as second:
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
