"""Bodies with a byte order mark, and compressed ones. A small one may unpack to a giant."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio

from services.common.errors import TooLarge
from services.gateway.http.respond import read_body
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import INSTRUCT, MAX_BODY_BYTES, RunningGateway, running_gateway
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages
from tests.gateway.test_memory import MIB, limits, memory_of

BODY = json.dumps({"model": INSTRUCT.name, "messages": HELLO}).encode()


def packed(body: bytes) -> bytes:
    """Return it as gzip, without the time: what the tests are called must not change from one process to the next."""
    return gzip.compress(body, mtime=0)


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"\xef\xbb\xbf" + BODY, {}),
        (packed(BODY), {"content-encoding": "gzip"}),
        (packed(b"\xef\xbb\xbf" + BODY), {"content-encoding": "X-GZIP"}),
        (BODY, {"content-encoding": "identity"}),
    ],
)
async def test_a_marked_or_packed_body_is_answered(stages: Stages, body: bytes, headers: dict[str, str]) -> None:
    headers = {"content-type": "application/json", **headers}
    response = await stages.gateway.client.post(CHAT, content=body, headers=headers)
    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["content"] == stages.story.text


@pytest_asyncio.fixture
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with running_gateway(store.url) as running:
        yield running


@pytest.mark.parametrize(
    ("body", "encoding", "status", "code"),
    [
        (BODY, "gzip", 400, "invalid_gzip"),
        (packed(BODY)[:-9], "gzip", 400, "invalid_gzip"),
        (packed(BODY) + b"x", "gzip", 400, "invalid_gzip"),
        (packed(BODY) * 2, "gzip", 400, "invalid_gzip"),
        (b"", "gzip", 400, "invalid_gzip"),
        (zlib.compress(BODY), "deflate", 400, "invalid_content_encoding"),
        (BODY, "br", 400, "invalid_content_encoding"),
        (packed(bytes(MAX_BODY_BYTES + 1)), "gzip", 413, "request_too_large"),
        (packed(b"[" * MAX_BODY_BYTES), "gzip", 413, "text_too_large"),
    ],
)
async def test_a_broken_or_too_large_packed_body_is_refused(
    gateway: RunningGateway, body: bytes, encoding: str, status: int, code: str
) -> None:
    headers = {"content-encoding": encoding, "content-type": "application/json"}
    response = await gateway.client.post(CHAT, content=body, headers=headers)
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)
    assert gateway.gateway.memory.budget.held_bytes == 0


class Packed:
    """A packed body that arrives in chunks as the HTTP server gives them."""

    def __init__(self, packed: bytes) -> None:
        self.scope: Any = {"headers": [(b"content-encoding", b"gzip"), (b"content-length", b"%d" % len(packed))]}
        self._chunks = [packed[at : at + 65536] for at in range(0, len(packed), 65536)]

    async def receive(self) -> dict[str, Any]:
        chunk = self._chunks.pop(0)
        return {"type": "http.request", "body": chunk, "more_body": bool(self._chunks)}


async def test_a_bomb_takes_no_more_memory_than_a_body_may() -> None:
    memory, bomb = memory_of(20 * MIB), Packed(gzip.compress(bytes(64 * MIB), 1))
    tracemalloc.start()
    try:
        async with memory.request("a") as held:
            with pytest.raises(TooLarge, match=f"{20 * MIB}"):
                await read_body(bomb.scope, bomb.receive, limits(), held)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 1.25 * 20 * MIB  # a bytearray takes an eighth more than it holds
    assert memory.budget.held_bytes == memory.budget.holds == 0


async def test_unpacking_leaves_the_event_loop_its_turns() -> None:
    memory, large = memory_of(500 * MIB), Packed(gzip.compress(bytes(32 * MIB)))
    async with memory.request("a") as held:
        reading = asyncio.ensure_future(read_body(large.scope, large.receive, limits(), held))
        turns = 0
        while not reading.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(await reading) == 32 * MIB
        assert memory.budget.held_bytes >= 2 * 32 * MIB  # and its strings
    assert turns > 100


async def test_empty_deflate_blocks_are_bounded_as_the_body_is() -> None:
    """They unpack to nothing, so the packed bytes count, too."""
    head, empty_block = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03", b"\x00\x00\x00\xff\xff"
    blocks, memory = Packed(head + empty_block * (MIB // 4)), memory_of(100 * MIB)
    del blocks.scope["headers"][1]  # as in chunks of unknown number
    async with memory.request("a") as held:
        with pytest.raises(TooLarge) as caught:
            await read_body(blocks.scope, blocks.receive, replace(limits(), max_body_bytes=MIB), held)
    assert caught.value.code == "request_too_large"
