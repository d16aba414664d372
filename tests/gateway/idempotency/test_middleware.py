"""The middleware around an endpoint of the test's own: clients that hang, and bounds on what is recorded."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from services.common.errors import Capacity, Conflict
from services.common.memory_budget import MemoryBudget
from services.common.redis_client import connect
from services.gateway.http.idempotency import Idempotent
from services.gateway.http.respond import BODY_READER
from services.gateway.idempotency.claims import Claims
from services.gateway.idempotency.keys import IdempotencyKeys
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until

KIB = 1 << 10
BODY = b"x" * (128 * KIB)


@pytest.fixture
def memory() -> MemoryBudget:
    return MemoryBudget(2048 * KIB, "test")


@pytest.fixture
async def keys(store: RedisServer, memory: MemoryBudget) -> AsyncGenerator[IdempotencyKeys]:
    async with keys_within(memory, store) as made:
        yield made


@asynccontextmanager
async def keys_within(memory: MemoryBudget, store: RedisServer) -> AsyncGenerator[IdempotencyKeys]:
    async with aclosing(connect(store.url)) as redis:
        kept = RedisKept(redis, "idempotency", KeptLimits(60, 8 << 20, 8 << 20))
        yield IdempotencyKeys(Claims(redis), kept, memory, response_bytes=1024 * KIB)
        assert memory.holds == memory.held_bytes == 0


class Endpoint:
    """Answers with `pieces` times BODY, once it `may_end`."""

    def __init__(self, pieces: int) -> None:
        self.pieces = pieces
        self.runs = 0
        self.sent = asyncio.Event()
        self.may_end = asyncio.Event()
        self.may_end.set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reader = scope["state"][BODY_READER]
        reader.add((await receive())["body"])
        await reader.end()
        self.runs += 1
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(self.pieces):
            await send({"type": "http.response.body", "body": BODY, "more_body": True})
        self.sent.set()
        await self.may_end.wait()
        await send({"type": "http.response.body", "body": b""})


class Client:
    """`hangs` = it takes nothing after the headers."""

    def __init__(self, key: str, *, hangs: bool = False) -> None:
        self.scope: Scope = {
            "type": "http",
            "path": "/v1/any",
            "headers": [(b"idempotency-key", key.encode())],
            "state": {"principal": Principal("acme", "acme")},
        }
        self.hangs = hangs
        self.got: list[Message] = []

    async def receive(self) -> Message:
        return {"type": "http.request", "body": b"{}"}

    async def send(self, message: Message) -> None:
        if self.hangs and message["type"] == "http.response.body":
            await asyncio.Event().wait()
        self.got.append(message)

    async def ask(self, app: Idempotent) -> Client:
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)

    @property
    def headers(self) -> Any:
        return self.got[0]["headers"]


def new_key() -> str:
    return uuid.uuid4().hex


async def test_a_client_that_hangs_does_not_hold_its_key(keys: IdempotencyKeys) -> None:
    endpoint, key = Endpoint(2), new_key()
    app = Idempotent(endpoint, keys, patience_s=0.01)
    hanging = await Client(key, hangs=True).ask(app)
    assert hanging.body == b""
    again = await Client(key).ask(app)
    assert again.body == 2 * BODY
    assert (b"idempotent-replayed", b"true") in again.headers
    assert endpoint.runs == 1


async def test_recordings_take_from_the_requests_memory(store: RedisServer) -> None:
    """Three responses of 768 KiB at once find room for two, which then go to Redis in three copies each."""
    memory, endpoint = MemoryBudget(2 * 3 * 768 * KIB, "test"), Endpoint(6)
    endpoint.may_end.clear()
    names = [new_key() for _ in range(3)]
    running = list[asyncio.Task[Client]]()
    async with keys_within(memory, store) as keys:
        app = Idempotent(endpoint, keys)
        async with memory.take(memory.total_bytes - 2048 * KIB, what="Others"):
            for name in names:
                endpoint.sent.clear()
                running.append(asyncio.create_task(Client(name).ask(app)))
                await endpoint.sent.wait()
            assert memory.held_bytes == memory.total_bytes - 2048 * KIB + 2 * 768 * KIB
        endpoint.may_end.set()
        assert [client.body for client in await asyncio.gather(*running)] == [6 * BODY] * 3
        assert endpoint.runs == 3
        assert [(await Client(name).ask(app)).body for name in names[:2]] == [6 * BODY] * 2
        with pytest.raises(Conflict) as caught:
            await Client(names[2]).ask(app)
        assert caught.value.code == "idempotent_response_too_large"
        assert endpoint.runs == 3


async def test_a_response_is_counted_on_its_way_to_redis(
    keys: IdempotencyKeys, memory: MemoryBudget, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = list[int]()

    async def put(store: RedisKept, tenant: str, id: str, value: bytes) -> None:
        held.append(memory.held_bytes)

    monkeypatch.setattr(RedisKept, "put", put)
    await Client(new_key()).ask(Idempotent(Endpoint(4), keys))
    await Client(new_key()).ask(Idempotent(Endpoint(0), keys))
    assert held == [3 * 512 * KIB, 0]  # a small one is not counted


async def test_a_response_is_sent_again_within_the_memory(keys: IdempotencyKeys, memory: MemoryBudget) -> None:
    """It is counted until the client has taken it. One that finds no room is refused with the numbers, and stays."""
    endpoint, key = Endpoint(4), new_key()
    app = Idempotent(endpoint, keys)
    await Client(key).ask(app)
    with memory.take_at_once(what="Others") as others:
        assert others.grow_at_once(1024 * KIB)
        with pytest.raises(Capacity, match=str(memory.total_bytes)) as caught:
            await Client(key).ask(app)
        assert caught.value.code == "memory_full"
    slow = Client(key, hangs=True)
    asking = asyncio.create_task(slow.ask(app))
    await wait_until(lambda: bool(slow.got))
    assert 512 * KIB <= memory.held_bytes <= 513 * KIB
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert memory.held_bytes == 0
    assert (await Client(key).ask(app)).body == 4 * BODY
    assert endpoint.runs == 1


async def test_a_client_that_does_not_take_what_is_sent_again_frees_it(
    keys: IdempotencyKeys, memory: MemoryBudget
) -> None:
    app, key = Idempotent(Endpoint(4), keys, patience_s=0.01), new_key()
    await Client(key).ask(app)
    assert (await Client(key, hangs=True).ask(app)).body == b""
    assert memory.held_bytes == 0


async def test_an_endpoint_that_fails_frees_key_and_room(keys: IdempotencyKeys) -> None:
    class Failing(Endpoint):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            async def send_then_fail(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body":
                    raise RuntimeError

            await super().__call__(scope, receive, send_then_fail)

    key = new_key()
    with pytest.raises(RuntimeError):
        await Client(key).ask(Idempotent(Failing(1), keys))
    endpoint = Endpoint(1)
    assert (await Client(key).ask(Idempotent(endpoint, keys))).body == BODY
    assert endpoint.runs == 1


async def test_without_the_header_nothing_is_recorded(keys: IdempotencyKeys) -> None:
    async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
        assert BODY_READER not in scope["state"]
        await send({"type": "http.response.start", "status": 200, "headers": []})

    client = Client("any")
    client.scope["headers"] = []
    await client.ask(Idempotent(endpoint, keys))
    assert client.headers == []
