"""What a request that failed held is freed at once, and not when the garbage collector comes by."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Awaitable, Callable, Generator

import httpx
import pytest

from services.common.queues import QueueName
from services.gateway.turn.conversation import Message
from services.gateway.turn.turn import Turn
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import RunningGateway, all_slots_taken
from tests.gateway.http_server import CHAT, HELLO, gateway

__all__ = ["gateway"]

pytestmark = pytest.mark.asyncio(loop_scope="module")
LONG = [{"role": "user", "content": "a" * 40_000}]  # preprocess renders it


@contextlib.contextmanager
def without_collector() -> Generator[list[object]]:
    """Yield a list of what only the garbage collector would have freed; `collect` fills it."""
    gc.collect()
    gc.disable()
    try:
        yield gc.garbage
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def works() -> bool:
    """Whether a turn runs, or what comes after it."""
    return any(task.get_name().startswith(("turn ", "end ", "account ")) for task in asyncio.all_tasks())


async def leaves_nothing(ask: Callable[[], Awaitable[object]]) -> None:
    with without_collector() as garbage:
        await ask()
        await wait_until(lambda: not works())
        await asyncio.sleep(0)  # what the last task held
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        assert [one for one in garbage if isinstance(one, (Message, Turn))] == []


@pytest.mark.parametrize("messages", [HELLO, LONG])
@pytest.mark.parametrize("asked", [{}, {"stream": True}, {"n": 2}])
async def test_a_lost_worker(gateway: RunningGateway, messages: object, asked: dict[str, object]) -> None:
    async def ask() -> None:
        body = {"model": "tiny-instruct", "messages": messages, **asked}
        assert (await gateway.client.post(CHAT, json=body)).status_code == 503

    await leaves_nothing(ask)


async def test_a_lost_worker_of_a_response(gateway: RunningGateway) -> None:
    async def ask() -> None:
        body = {"model": "tiny-instruct", "input": "a" * 40_000, "store": False}
        assert (await gateway.client.post("/v1/responses", json=body)).status_code == 503

    await leaves_nothing(ask)


async def test_a_deadline(gateway: RunningGateway, store: RedisServer) -> None:
    async def ask() -> None:
        headers = {"x-request-timeout-ms": "300"}
        body = {"model": "tiny-thinking", "messages": LONG}
        assert (await gateway.client.post(CHAT, json=body, headers=headers)).status_code in (429, 504)

    async with all_slots_taken(store.url, QueueName("preprocess", "tiny-thinking")):
        await leaves_nothing(ask)


async def test_a_request_that_is_refused_once_it_is_read(gateway: RunningGateway) -> None:
    async def ask() -> None:
        body = {"model": "tiny-instruct", "messages": LONG, "n": 100}
        assert (await gateway.client.post(CHAT, json=body)).status_code == 400
        body = {"model": "tiny-unknown", "messages": LONG}
        assert (await gateway.client.post(CHAT, json=body)).status_code == 404

    await leaves_nothing(ask)


async def test_a_client_that_leaves(gateway: RunningGateway, store: RedisServer) -> None:
    queue = QueueName("preprocess", "tiny-thinking")

    async def ask() -> None:
        body = {"model": "tiny-thinking", "messages": LONG}
        async with httpx.AsyncClient(headers=gateway.client.headers, base_url=gateway.client.base_url) as client:
            asking = asyncio.create_task(client.post(CHAT, json=body))
            await wait_until(works)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async with all_slots_taken(store.url, queue):
        await leaves_nothing(ask)
