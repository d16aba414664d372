"""Lines of batches take from the requests' memory before they are read, and what waits for room holds nothing."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.batches.object_store import ObjectStore
from services.gateway.http.files.endpoint import PIECE_BYTES
from services.gateway.memory import GatewayMemory
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.batches.conftest import CHAT, HELLO, Batching, batching, line

pytestmark = pytest.mark.asyncio(loop_scope="module")
MIB = 1 << 20
RESPONSES = "/v1/responses"
SOUND = {"type": "input_audio", "input_audio": {"data": base64.b64encode(bytes(MIB)).decode(), "format": "wav"}}
LARGE: dict[str, Any] = {**HELLO, "messages": [{"role": "user", "content": [SOUND]}]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def world(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Batching]:
    folder = tmp_path_factory.mktemp("batches")
    settings: dict[str, Any] = {"max_body_bytes": 8 * MIB, "max_media_bytes": 4 * MIB, "memory_bytes": 200 * MIB}
    async with batching(store.url, folder, batch_line_bytes=8 * MIB, **settings) as running:
        yield running
        assert memory_of(running).budget.holds == 0


def memory_of(world: Batching) -> GatewayMemory:
    return world.stages.gateway.gateway.memory


@pytest.fixture
def reads(world: Batching, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What all requests held after each read of a large line, bytes."""
    budget, held, read = memory_of(world).budget, list[int](), ObjectStore.read

    async def counted(store: ObjectStore, name: str, offset: int, size_bytes: int) -> bytes:
        data = await read(store, name, offset, size_bytes)
        if MIB < len(data) < 2 * MIB:  # a line, not the whole input
            held.append(budget.held_bytes)
        return data

    monkeypatch.setattr(ObjectStore, "read", counted)
    return held


async def test_large_lines_wait_for_room_without_memory(world: Batching, reads: list[int]) -> None:
    """They are read to see what they wait for, dropped, and read again when there is room."""
    [thinker], budget = world.stages.thinker, memory_of(world).budget
    thinker.engine.may_step.clear()
    try:
        others = [asyncio.create_task(world.client.post(CHAT, json=HELLO)) for _ in range(4)]
        await wait_until(lambda: len(thinker.engine.inside) == 4)
        made = await world.create([line(f"line-{number}", LARGE) for number in range(3)])
        await wait_until(lambda: len(reads) == 3 and budget.holds == 0)
        assert not any(world.stages.preprocess[0].media)
    finally:
        thinker.engine.may_step.set()
    done = await world.ended(made["id"])
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}
    assert len(reads) == 6
    assert min(reads) > 2 * MIB
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}


async def test_lines_wait_for_memory_before_they_are_read(world: Batching) -> None:
    budget = memory_of(world).budget
    uploaded = await world.create([line("small")])
    await world.ended(uploaded["id"])
    async with budget.take(budget.total_bytes - MIB, what="Others"):
        made = await world.create([line(f"line-{number}") for number in range(2)] + [line("large", LARGE)])
        await wait_until(lambda: bool(budget.waiting))  # to be looked at
        assert budget.held_bytes == budget.total_bytes - MIB
        await asyncio.sleep(0)
        assert (await world.batch(made["id"]))["status"] == "validating"
    done = await world.ended(made["id"])
    assert done["request_counts"] == {"total": 3, "completed": 3, "failed": 0}


async def test_a_line_of_too_many_values_is_refused_before_it_is_parsed(world: Batching) -> None:
    failed = await world.ended((await world.create([line("a", {**HELLO, "metadata": [0] * 60_000})]))["id"])
    [error] = failed["errors"]["data"]
    assert (failed["status"], error["code"], error["line"]) == ("failed", "too_many_values", 1)


async def test_a_line_that_never_fits_is_refused_with_the_numbers(world: Batching) -> None:
    memory = memory_of(world)
    total = memory.budget.total_bytes
    memory.budget.total_bytes = 4 * MIB
    try:
        failed = await world.ended((await world.create([line("a", LARGE)]))["id"])
    finally:
        memory.budget.total_bytes = total
    [error] = failed["errors"]["data"]
    assert (failed["status"], error["code"], error["line"]) == ("failed", "line_too_large", 1)
    assert str(4 * MIB) in error["message"]


async def test_a_line_that_a_smaller_gateway_runs_ends_with_its_id(world: Batching, reads: list[int]) -> None:
    """It was validated where there is more memory."""
    [thinker], budget = world.stages.thinker, memory_of(world).budget
    total = budget.total_bytes
    thinker.engine.may_step.clear()
    try:
        others = [asyncio.create_task(world.client.post(CHAT, json=HELLO)) for _ in range(4)]
        await wait_until(lambda: len(thinker.engine.inside) == 4)
        made = await world.create([line("small"), line("lärge", LARGE)])

        async def waits() -> bool:
            """Both lines were validated, and hold nothing. How often the large one was looked at is left open."""
            validated = (await world.batch(made["id"]))["status"] == "in_progress"
            return validated and bool(reads) and budget.holds == 0

        await wait_until(waits)
        budget.total_bytes = 4 * MIB
        thinker.engine.may_step.set()
        done = await world.ended(made["id"])
    finally:
        budget.total_bytes = total
        thinker.engine.may_step.set()
    assert done["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    [ended] = await world.lines_of(done["error_file_id"])
    assert (ended["custom_id"], ended["error"]["code"]) == ("lärge", "request_too_large")
    assert {answer.status_code for answer in await asyncio.gather(*others)} == {200}


async def test_only_an_endpoint_that_continues_responses_needs_room_for_one(world: Batching) -> None:
    """A line that never has that room is refused before it runs, so that whoever sent it learns which one it is."""
    memory, large = memory_of(world), line("large", LARGE)
    total = memory.budget.total_bytes
    memory.budget.total_bytes = memory.body_bytes(len(large)) + 2 * MIB  # enough to look at it
    try:
        done = await world.ended((await world.create([line("small"), large]))["id"])
        lines = [line("small", url=RESPONSES), line("large", LARGE, RESPONSES)]
        failed = await world.ended((await world.create(lines, RESPONSES))["id"])
    finally:
        memory.budget.total_bytes = total
    assert done["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    [error] = failed["errors"]["data"]
    assert (failed["status"], error["code"], error["line"]) == ("failed", "line_too_large", 2)


async def test_what_is_cancelled_is_read_within_the_memory(world: Batching, reads: list[int]) -> None:
    """The ids of lines without a result are read again."""
    [thinker], budget = world.stages.thinker, memory_of(world).budget
    thinker.engine.may_step.clear()
    try:
        made = await world.create([line(f"line-{number}", LARGE) for number in range(6)])
        await wait_until(lambda: thinker.engine.inside)
        reads.clear()
        await world.client.post(f"/v1/batches/{made['id']}/cancel")
        done = await world.ended(made["id"])
    finally:
        thinker.engine.may_step.set()
    ended = await world.lines_of(done["error_file_id"])
    assert sorted(each["custom_id"] for each in ended) == [f"line-{number}" for number in range(6)]
    assert len(reads) >= 6
    assert min(reads) > MIB
    await wait_until(lambda: budget.holds == 0)


async def test_a_file_that_is_read_slowly_is_counted(world: Batching) -> None:
    budget = memory_of(world).budget
    content = b"".join(line(f"line-{number}").encode() + b"\n" for number in range(10)) * (32 * MIB // 1000)
    assert len(content) > 32 * MIB  # more than the sockets hold
    uploaded = (await world.upload(content)).json()
    assert not budget.held_bytes
    async with world.client.stream("GET", f"/v1/files/{uploaded['id']}/content") as answer:
        assert answer.status_code == 200
        assert budget.held_bytes == 2 * PIECE_BYTES
        assert await answer.aread() == content
    await wait_until(lambda: not budget.held_bytes)
    async with world.client.stream("GET", f"/v1/files/{uploaded['id']}/content"):
        assert budget.held_bytes == 2 * PIECE_BYTES
    await wait_until(lambda: not budget.held_bytes)  # its client has left
    async with budget.take(budget.total_bytes - MIB, what="Others"):
        reading = asyncio.create_task(world.client.get(f"/v1/files/{uploaded['id']}/content"))
        await wait_until(lambda: bool(budget.waiting))
        assert not reading.done()
    assert (await reading).content == content
