"""Files and batches with an Idempotency-Key: each is made once, however often it is sent."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import CHAT, Batching, batching, line

pytestmark = pytest.mark.asyncio(loop_scope="module")

LINE = line("a").encode()


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    folder = tmp_path_factory.mktemp("batches")
    async with batching(store.url, folder, batch_concurrency=0) as running:  # batches stay as they are made
        yield running


def new_key() -> dict[str, str]:
    return {"idempotency-key": uuid.uuid4().hex}


async def upload(world: Batching, key: dict[str, str], data: bytes = LINE) -> httpx.Response:
    files = {"file": ("in.jsonl", data)}
    return await world.client.post("/v1/files", data={"purpose": "batch"}, files=files, headers=key)


async def make(world: Batching, key: dict[str, str], file_id: str, **more: Any) -> httpx.Response:
    body = {"input_file_id": file_id, "endpoint": CHAT, "completion_window": "24h", **more}
    return await world.client.post("/v1/batches", json=body, headers=key)


def outcome(response: httpx.Response) -> tuple[int, str]:
    """Return the status, and "new", "again" or the error's code."""
    if response.status_code == 200:
        return 200, "again" if "idempotent-replayed" in response.headers else "new"
    return response.status_code, response.json()["error"]["code"]


async def ids_of(world: Batching, path: str) -> list[str]:
    return [each["id"] for each in (await world.client.get(path)).json()["data"]]


async def test_a_file_is_uploaded_once(world: Batching) -> None:
    key, before = new_key(), len(await ids_of(world, "/v1/files"))
    data = LINE + b" " * 300_000  # of several pieces
    answers = [await upload(world, key, data) for _ in range(2)]
    assert [outcome(each) for each in answers] == [(200, "new"), (200, "again")]
    assert answers[0].json() == answers[1].json()
    assert len(await ids_of(world, "/v1/files")) == before + 1
    assert (await world.client.get(f"/v1/files/{answers[0].json()['id']}/content")).content == data
    assert outcome(await upload(world, key, data[:-1])) == (400, "idempotency_key_reused")
    assert len(await ids_of(world, "/v1/files")) == before + 1
    await wait_until(lambda: len(world.objects) == before + 1)  # the other copies are gone


async def test_of_uploads_at_once_one_stays(world: Batching) -> None:
    key, before = new_key(), len(await ids_of(world, "/v1/files"))
    outcomes = [outcome(each) for each in await asyncio.gather(*(upload(world, key) for _ in range(8)))]
    assert outcomes.count((200, "new")) == 1
    assert set(outcomes) <= {(200, "new"), (200, "again"), (409, "idempotency_key_in_use")}
    assert outcome(await upload(world, key)) == (200, "again")
    assert len(await ids_of(world, "/v1/files")) == before + 1


async def test_an_upload_that_was_refused_frees_its_key(world: Batching) -> None:
    key = new_key()
    assert outcome(await upload(world, key, b"")) == (400, "empty_file")
    assert outcome(await upload(world, key)) == (200, "new")


async def test_a_batch_is_made_and_cancelled_once(world: Batching) -> None:
    file_id = (await upload(world, {})).json()["id"]
    key, before = new_key(), len(await ids_of(world, "/v1/batches"))
    answers = [await make(world, key, file_id) for _ in range(2)]
    assert [outcome(each) for each in answers] == [(200, "new"), (200, "again")]
    assert answers[0].json() == answers[1].json()
    assert outcome(await make(world, key, file_id, metadata={"a": "b"})) == (400, "idempotency_key_reused")
    made = answers[0].json()["id"]
    assert outcome(await world.client.post(f"/v1/batches/{made}/cancel", headers=key)) == (
        400,
        "idempotency_key_reused",
    )
    assert (await world.batch(made))["status"] == "validating"

    other = (await make(world, new_key(), file_id)).json()["id"]
    assert len(await ids_of(world, "/v1/batches")) == before + 2
    key = new_key()
    cancelled = await world.client.post(f"/v1/batches/{made}/cancel", headers=key)
    assert (outcome(cancelled), cancelled.json()["status"]) == ((200, "new"), "cancelling")
    again = await world.client.post(f"/v1/batches/{made}/cancel", headers=key)
    assert (outcome(again), again.json()) == ((200, "again"), cancelled.json())
    assert outcome(await world.client.post(f"/v1/batches/{other}/cancel", headers=key)) == (
        400,
        "idempotency_key_reused",
    )


async def test_an_upload_that_took_the_last_room_is_answered_again(store: RedisServer, tmp_path: Path) -> None:
    """Only its whole body tells that it is the same, so what would refuse it waits until then."""
    control = {"tenant_files": 1}
    async with batching(store.url, tmp_path, control=control) as world:
        key = new_key()
        assert [outcome(await upload(world, key)) for _ in range(2)] == [(200, "new"), (200, "again")]
        assert outcome(await upload(world, key, LINE + b" ")) == (400, "idempotency_key_reused")
        assert outcome(await upload(world, new_key())) == (403, "file_limit_reached")
        assert outcome(await upload(world, {})) == (403, "file_limit_reached")
