"""Bodies and inline media take from the budget before they exist, and give back as soon as they are gone."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from starlette.types import Message as AsgiMessage

from services.common.errors import Capacity, SlowBody, TooLarge
from services.common.memory_budget import MemoryBudget
from services.common.open_calls import MOST_READS
from services.gateway.audio.encoding import encoder_bytes
from services.gateway.audio.formats import CODECS
from services.gateway.http.respond import read_body
from services.gateway.limits import READ_BYTES, RequestLimits
from services.gateway.memory import LATER_BYTES, GatewayMemory, RequestMemory, requests_bytes
from services.gateway.spill import SpillDisk
from services.gateway.turn.conversation import ImagePart, Message, TextPart, UrlSource
from services.gateway.turn.held_media import SMALL_BYTES, HeldMedia
from tests.fixtures.wait import wait_until

MIB = 1 << 20
TEXT = [Message("user", [TextPart("p", "hello")])]


def limits(body_timeout_s: float = 30.0) -> RequestLimits:
    return RequestLimits(
        max_body_bytes=64 * MIB,
        max_media_bytes=40 * MIB,
        max_text_bytes=MIB,
        body_timeout_s=body_timeout_s,
        request_timeout_s=60,
        keep_alive_s=15,
    )


def memory_of(
    total: int, folder: Path | None = None, *, spill: int = 1 << 30, timeout_s: float = 30.0
) -> GatewayMemory:
    return GatewayMemory(MemoryBudget(total, "test"), SpillDisk(folder, spill), limits(timeout_s))


class Client:
    """Sends a body in the chunks that it is told."""

    def __init__(self, declared: int | None = None) -> None:
        self._chunks: asyncio.Queue[AsgiMessage] = asyncio.Queue()
        headers = [] if declared is None else [(b"content-length", b"%d" % declared)]
        self.scope: Any = {"headers": headers}

    def send(self, size: int, *, more: bool = True) -> Client:
        self._chunks.put_nowait({"type": "http.request", "body": bytes(size), "more_body": more})
        return self

    async def receive(self) -> AsgiMessage:
        return await self._chunks.get()

    async def read(self, memory: RequestMemory, timeout_s: float = 30.0) -> bytes:
        return await read_body(self.scope, self.receive, limits(timeout_s), memory)


async def test_a_body_counts_as_it_arrives() -> None:
    memory = memory_of(100 * MIB)
    async with memory.request("a") as held:
        client = Client(8 * MIB)
        reading = asyncio.create_task(client.read(held))
        client.send(SMALL_BYTES)
        client.send(MIB)
        await wait_until(lambda: memory.budget.held_bytes == 2 * MIB)
        client.send(3 * MIB)
        await wait_until(lambda: memory.budget.held_bytes == 5 * MIB)
        client.send(8 * MIB - SMALL_BYTES - 4 * MIB, more=False)
        assert len(await reading) == 8 * MIB
        assert memory.budget.held_bytes >= 2 * 8 * MIB  # and its strings
    assert memory.budget.held_bytes == memory.budget.holds == 0


@pytest.mark.parametrize("text_bytes", [10, 3 * SMALL_BYTES])
async def test_what_stands_beside_messages_is_part_of_the_requests_hold(text_bytes: int) -> None:
    memory = memory_of(100 * MIB)
    async with memory.request("a") as held:
        text = [Message("user", [TextPart("p", "a" * text_bytes)])]
        await held.keep(text, (), later_bytes=7 * MIB)
        kept = memory.budget.held_bytes
        async with held.beside(7 * MIB, what="The encoder"):
            assert (memory.budget.held_bytes, memory.budget.holds) == (kept + 7 * MIB, 1)
        assert memory.budget.held_bytes == kept
    assert memory.budget.holds == 0


async def test_a_body_leaves_room_for_the_encoder_of_any_format() -> None:
    """A body of 100 KiB takes less than an encoder while it is parsed, and keeps less after that."""
    memory = memory_of(100 * MIB)
    largest = max(encoder_bytes(name) for name in CODECS)
    assert largest <= LATER_BYTES
    async with memory.request("a") as held:
        await Client(100 * 1024).send(100 * 1024, more=False).read(held)
        await held.keep([Message("user", [TextPart("p", "a" * 99 * 1024)])], (), later_bytes=largest)
        async with held.beside(largest, what="The encoder"):
            assert memory.budget.held_bytes > largest
    assert memory.budget.holds == 0


async def test_a_line_of_a_batch_becomes_the_body_of_its_request() -> None:
    memory = memory_of(100 * MIB)
    async with memory.request("a") as held:
        await held.take_line(4 * MIB, later_bytes=2 * MIB)
        before = memory.budget.held_bytes
        await Client(4 * MIB).send(4 * MIB, more=False).read(held)
        assert (memory.budget.held_bytes, memory.budget.holds) == (before, 1)
        await held.grow_body(6 * MIB, None, is_whole=True)  # with an earlier response
        await held.keep(TEXT, ())
        assert memory.budget.holds == 0
    async with memory.request("a") as held:
        await held.take_line(SMALL_BYTES, later_bytes=2 * MIB)
        assert memory.budget.holds == 0
    small = memory_of(10 * MIB)
    async with small.request("a") as held:
        with pytest.raises(TooLarge, match=rf"{10 * MIB}"):
            await held.take_line(8 * MIB, later_bytes=0)
    assert small.budget.held_bytes == 0


async def test_media_that_leaves_takes_nothing_from_what_stands_beside_it(tmp_path: Path) -> None:
    memory = memory_of(100 * MIB, tmp_path)
    async with memory.request("a") as held:
        media = await held.keep(TEXT, [bytes(MIB)], later_bytes=7 * MIB)
        async with held.beside(7 * MIB, what="The encoder"):
            media.leave_memory()
            await media.left()
            assert memory.budget.held_bytes == 7 * MIB
        assert memory.budget.holds == 0


async def test_requests_that_hold_messages_do_not_wait_for_each_other() -> None:
    """Two that hold all there is, and may each take more later: the second one waits before it holds anything."""
    memory = memory_of(10 * MIB)
    text = [Message("user", [TextPart("p", "a" * 3 * MIB)])]
    async with memory.request("a") as first, memory.request("b") as second:
        await first.keep(text, (), later_bytes=6 * MIB)
        keeping = asyncio.create_task(second.keep(text, (), later_bytes=6 * MIB))
        await wait_until(lambda: memory.budget.waiting + memory.budget.holds == 2)
        async with first.beside(6 * MIB, what="The encoder"):
            pass
        await first.close()
        await keeping
        async with second.beside(6 * MIB, what="The encoder"):
            assert memory.budget.held_bytes > 9 * MIB


async def test_a_small_body_is_not_counted() -> None:
    memory = memory_of(100 * MIB)
    async with memory.request("a") as held:
        await Client(100).send(100, more=False).read(held)
        await held.keep(TEXT, [b"sound"])
        assert memory.budget.holds == 0


@pytest.mark.parametrize("declared", [40 * MIB, None])
async def test_a_body_that_never_fits_is_refused_with_the_numbers(declared: int | None) -> None:
    memory = memory_of(10 * MIB)
    client = Client(declared)
    for _ in range(40):
        client.send(MIB)
    async with memory.request("a") as held:
        with pytest.raises(TooLarge, match=rf"{10 * MIB}"):
            await client.read(held)
    assert memory.budget.held_bytes == memory.budget.holds == 0


async def test_bodies_wait_for_room_in_order_and_not_on_the_client_s_time() -> None:
    memory, order = memory_of(30 * MIB), list[str]()

    async def ask(name: str) -> None:
        async with memory.request("a") as held:
            await Client(4 * MIB).send(4 * MIB, more=False).read(held, timeout_s=0.05)
            order.append(name)

    async with asyncio.TaskGroup() as group, memory.budget.take(30 * MIB, what="A film"):
        for count, name in enumerate("abc", 1):
            group.create_task(ask(name))
            await wait_until(lambda count=count: memory.budget.waiting == count)
        with pytest.raises(SlowBody):  # the others wait longer than this client may take
            await Client(100).send(10).read(RequestMemory(memory, "b"), timeout_s=0.1)
        assert order == []
    assert order == ["a", "b", "c"]


async def test_a_body_without_room_in_time_is_refused_as_such() -> None:
    memory = memory_of(30 * MIB, timeout_s=0.05)
    async with memory.budget.take(30 * MIB, what="A film"):
        with pytest.raises(Capacity) as caught:
            async with memory.request("a") as held:
                await Client(4 * MIB).send(4 * MIB, more=False).read(held)
        assert (caught.value.code, memory.budget.waiting) == ("memory_full", 0)


async def test_one_more_than_may_wait_is_refused_at_once() -> None:
    """What they hold before they are counted is a part of the memory that is set aside for them."""
    memory = memory_of(10 * MIB)
    async with memory.budget.take(10 * MIB, what="A film"), asyncio.TaskGroup() as group:
        waiting = list[asyncio.Task[None]]()

        async def ask() -> None:
            async with memory.request("a") as held:
                await Client(MIB).send(MIB, more=False).read(held)

        while not memory.is_crowded("a"):
            waiting.append(group.create_task(ask()))
            await wait_until(lambda: memory.budget.waiting == len(waiting))
        with pytest.raises(Capacity) as caught:
            await ask()
        assert caught.value.code == "memory_full"
        assert 1 <= len(waiting) <= 10 * MIB // 16 // (3 * READ_BYTES)
        for task in waiting:
            task.cancel()


async def test_one_tenant_does_not_take_all_places_to_wait_at() -> None:
    memory = memory_of(100 * MIB)
    most = 100 * MIB // 16 // (3 * READ_BYTES)
    async with memory.budget.take(100 * MIB, what="A film"), asyncio.TaskGroup() as group:
        waiting = list[asyncio.Task[None]]()

        async def ask(tenant: str) -> None:
            async with memory.request(tenant) as held:
                await Client(MIB).send(MIB, more=False).read(held)

        async def flood(tenant: str) -> int:
            before = len(waiting)
            while not memory.is_crowded(tenant):
                waiting.append(group.create_task(ask(tenant)))
                await wait_until(lambda: memory.budget.waiting == len(waiting))
            with pytest.raises(Capacity):
                await ask(tenant)
            return len(waiting) - before

        assert most * 3 // 4 < await flood("a") < most
        assert await flood("b") > 0
        for task in waiting:
            task.cancel()


async def test_requests_that_grow_keep_no_others_from_waiting() -> None:
    """What they have read is a part of what they hold."""
    memory = memory_of(100 * MIB)
    many = 100 * MIB // 16 // (3 * READ_BYTES) + 1
    film = memory.budget.take(100 * MIB - many, what="A film")
    async with film, AsyncExitStack() as held, asyncio.TaskGroup() as group:
        requests = [await held.enter_async_context(memory.request("a")) for _ in range(many)]
        for each in requests:
            await each.take(1, most_bytes=2, what="The body")
        growing = [group.create_task(each.grow_to(2)) for each in requests]
        await wait_until(lambda: memory.budget.waiting == many)
        assert not memory.is_crowded("b")
        for task in growing:
            task.cancel()


def test_the_requests_memory_leaves_room_for_what_they_hold_before() -> None:
    assert requests_bytes(1600 * MIB, 4 * MIB) == 1600 * MIB - 100 * MIB - MOST_READS * 4 * MIB
    assert requests_bytes(16 * MIB, 4 * MIB) == 8 * MIB  # however small it is


async def test_text_counts_with_its_utf8() -> None:
    memory = memory_of(100 * MIB)
    text = "a" * MIB + "\N{GRINNING FACE}"
    async with memory.request("a") as held:
        await held.keep([Message("user", [TextPart("p", text)])], ())
        assert memory.budget.held_bytes >= sys.getsizeof(text) + len(text.encode())


async def test_what_is_decoded_is_all_that_is_held_and_media_leaves_it(tmp_path: Path) -> None:
    memory = memory_of(100 * MIB, tmp_path)
    files = [bytes([1]) * MIB, b"two", bytes(range(256)) * 8192]
    async with memory.request("a") as held:
        await Client(8 * MIB).send(8 * MIB, more=False).read(held)
        media = await held.keep(TEXT, files)
        total = sum(map(len, files))
        assert total <= memory.budget.held_bytes <= total + 1024
        before = await read_all(media)
        media.leave_memory()
        await wait_until(lambda: not media.in_memory and memory.budget.holds == 0)
        assert await read_all(media) == before == files
        assert os.listdir(tmp_path) == []  # noqa: PTH208  # the file has no name
        assert disk_of(memory).used_bytes == total
    assert disk_of(memory).used_bytes == 0


async def test_text_stays_counted_when_media_has_left(tmp_path: Path) -> None:
    memory = memory_of(100 * MIB, tmp_path)
    text = [Message("user", [TextPart("p", "a" * SMALL_BYTES), ImagePart("q", UrlSource("https://x/" + "y" * 2000))])]
    async with memory.request("a") as held:
        media = await held.keep(text, [bytes(MIB)])
        media.leave_memory()
        await wait_until(lambda: memory.budget.held_bytes < MIB)
        assert memory.budget.held_bytes > SMALL_BYTES + 4 * 2000
    assert memory.budget.held_bytes == 0


async def test_media_stays_in_memory_where_the_disk_has_no_room(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    for memory in (memory_of(100 * MIB, tmp_path, spill=MIB), memory_of(100 * MIB, tmp_path / "a file")):
        async with memory.request("a") as held:
            media = await held.keep(TEXT, [bytes(2 * MIB)])
            media.leave_memory()
            await media.left()
            assert media.in_memory
            assert memory.budget.held_bytes >= 2 * MIB
            assert await read_all(media) == [bytes(2 * MIB)]
        assert disk_of(memory).used_bytes == memory.budget.held_bytes == 0


async def test_a_request_that_ends_while_its_media_is_written_frees_all(tmp_path: Path) -> None:
    memory = memory_of(100 * MIB, tmp_path)
    async with memory.request("a") as held:
        (await held.keep(TEXT, [bytes(20 * MIB)])).leave_memory()
    assert disk_of(memory).used_bytes == memory.budget.held_bytes == 0


async def test_a_file_is_closed_after_its_last_read(tmp_path: Path) -> None:
    disk = SpillDisk(tmp_path, 1 << 30)
    written = await disk.write([b"abc", b"def"])
    assert written is not None
    reading = asyncio.create_task(written.read(2, 3))
    await asyncio.sleep(0)
    written.close()
    assert (await reading, disk.used_bytes) == (b"cde", 0)


async def read_all(media: HeldMedia) -> list[bytes]:
    return [b"".join([chunk async for chunk in media.chunks(i, 700_000)]) for i in range(len(media.sizes))]


def disk_of(memory: GatewayMemory) -> SpillDisk:
    assert isinstance(memory.spill, SpillDisk)
    return memory.spill
