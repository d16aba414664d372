"""What the tests of the HTTP server share: a gateway whose workers take tickets and answer no call."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S
from tests.gateway.conftest import CAPTIONER, INSTRUCT, THINKING, RunningGateway, absent_workers, running_gateway

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    async with absent_workers(store.url, INSTRUCT, THINKING, CAPTIONER), running_gateway(store.url) as running:
        yield running


async def raw(gateway: RunningGateway, request: bytes) -> bytes:
    """Send raw bytes and return the response."""
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    try:
        writer.write(request)
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), HANGS_AFTER_S)
        length = int(
            next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")).split(b":")[1]
        )
        return head + await reader.readexactly(length)
    finally:
        writer.close()
        await writer.wait_closed()


def error_of(response: httpx.Response) -> dict[str, Any]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error
