"""The middleware around an endpoint of the test's own: clients that hang, and bounds on what is recorded."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from services.common.errors import Conflict
from services.common.redis_client import connect
from services.gateway.http.idempotency import Idempotent
from services.gateway.http.respond import BODY_READER
from services.gateway.idempotency.claims import Claims
from services.gateway.idempotency.keys import IdempotencyKeys
from services.gateway.kept.redis_store import KeptLimits, RedisKept
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer

BODY = b"x" * 1000


@pytest.fixture
async def keys(store: RedisServer) -> AsyncGenerator[IdempotencyKeys]:
    redis = connect(store.url)
    kept = RedisKept(redis, "idempotency", KeptLimits(60, 1 << 20, 1 << 20))
    yield IdempotencyKeys(Claims(redis), kept, response_bytes=2500, recording_bytes=4500)
    await redis.aclose()


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


async def test_what_all_record_together_is_bounded(keys: IdempotencyKeys) -> None:
    """Three responses of 2,000 bytes at once have room for two."""
    endpoint = Endpoint(2)
    endpoint.may_end.clear()
    app = Idempotent(endpoint, keys)
    names = [new_key() for _ in range(3)]
    running = list[asyncio.Task[Client]]()
    for name in names:
        endpoint.sent.clear()
        running.append(asyncio.create_task(Client(name).ask(app)))
        await endpoint.sent.wait()
    endpoint.may_end.set()
    assert [client.body for client in await asyncio.gather(*running)] == [2 * BODY] * 3
    assert [(await Client(name).ask(app)).body for name in names[:2]] == [2 * BODY] * 2
    with pytest.raises(Conflict) as caught:
        await Client(names[2]).ask(app)
    assert caught.value.code == "idempotent_response_too_large"
    assert keys.recording_left_bytes == 4500
    assert endpoint.runs == 3


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
    assert keys.recording_left_bytes == 4500
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
