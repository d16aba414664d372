"""A revoked key: nothing of it goes on for longer than a second, on any gateway."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest
from pydantic import SecretStr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from antiphon.v1 import gateway_pb2, preprocess_pb2
from tests.control.conftest import TOKEN, RunningControl, running_control
from tests.fixtures.redis import RedisServer, redis_server
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, running_gateway
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages
from tests.gateway.turn.test_converse import gateway_stub

__all__ = ["redis_server"]

WITHIN_S = 1.0
"""What docs/control.md promises."""
ATTEMPTS = 12
"""A machine that is busy with something else may take longer once."""
BODY = {"model": INSTRUCT.name, "messages": HELLO}
Ending = Coroutine[Any, Any, str]


async def test_a_revoked_key_stops_requests_streams_and_sockets_on_three_gateways(
    redis_server: RedisServer, sqlite_url: str
) -> None:
    async with running_control(sqlite_url) as control:
        settings: dict[str, Any] = {
            "api_key": "",
            "control_address": control.address,
            "control_token": SecretStr(TOKEN),
            "request_timeout_s": 250.0,
        }
        project = await control.new_project()
        async with three_gateways(redis_server, **settings) as gateways:
            for attempt in range(ATTEMPTS):
                if await revoke_all(control, project, gateways, f"key-{attempt}") <= WITHIN_S:
                    return
    pytest.fail(f"everything ended, but in none of {ATTEMPTS} attempts within {WITHIN_S:g} s")


async def revoke_all(control: RunningControl, project: str, gateways: list[Stages], name: str) -> float:
    """Revoke a key while it has streams and sockets on all gateways. Return after how many seconds all had ended."""
    key, other = await control.new_key(project, name), await control.new_key(project, f"{name}-other")
    for one in gateways:
        for each in (key, other):
            await wait_until(lambda one=one, each=each: status(one, each["secret"], 200))
    first = gateways[0]
    async with AsyncExitStack() as stack:
        first.next_calls("thinker", *[Act("hang", 3)] * (3 * len(gateways) + 1))
        endings = [
            await stack.enter_async_context(opened(one, key["secret"]))
            for one in gateways
            for opened in (streamed, conversed, responding, idle)
        ]
        survivor = await stack.enter_async_context(streamed(first, other["secret"]))
        began_s = time.monotonic()
        await control.post(f"/keys/{key['id']}/revoke", status=200)
        ended = await asyncio.gather(*endings, *(refused(one, key["secret"]) for one in gateways))
        took_s = time.monotonic() - began_s
        assert ended == ["revoked_api_key"] * len(endings) + ["invalid_api_key"] * len(gateways)
        # Another key of the same project goes on.
        for worker in [worker for worker in first.thinker if worker.is_alive]:
            worker.kill()
        await first.start_worker("thinker")
        assert await survivor == "[DONE]"
    return took_s


@asynccontextmanager
async def three_gateways(store: RedisServer, **settings: Any) -> AsyncGenerator[list[Stages]]:
    async with scripted_stages(store.url, slots=20, **settings) as first, AsyncExitStack() as stack:
        others = [await stack.enter_async_context(running_gateway(store.url, **settings)) for _ in range(2)]
        yield [first, *(replace(first, gateway=other) for other in others)]


def as_key(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def status(stages: Stages, secret: str, wanted: int) -> bool:
    client = stages.gateway.client
    return (await client.get("/v1/models", headers=as_key(secret))).status_code == wanted


async def refused(stages: Stages, secret: str) -> str:
    """Ask until it is refused for the key. Return the reason."""
    while True:
        answer = await stages.gateway.client.get("/v1/models", headers=as_key(secret))
        if answer.status_code == 401:
            return answer.json()["error"]["code"]
        await asyncio.sleep(0.01)


@asynccontextmanager
async def streamed(stages: Stages, secret: str) -> AsyncGenerator[Ending]:
    """Have a stream of server-sent events of which some have come. What is yielded returns how it ends."""
    async with stages.gateway.client.stream("POST", CHAT, json=BODY | {"stream": True}, headers=as_key(secret)) as got:
        lines = got.aiter_lines()
        await anext(lines)

        async def end() -> str:
            said = [line.removeprefix("data: ") async for line in lines if line.startswith("data: ")]
            return said[-1] if said[-1] == "[DONE]" else json.loads(said[-1])["error"]["code"]

        yield end()


@asynccontextmanager
async def conversed(stages: Stages, secret: str) -> AsyncGenerator[Ending]:
    """The same over gRPC."""
    message = preprocess_pb2.Message(role="user", parts=[preprocess_pb2.Part(text="hello")])
    start = gateway_pb2.ConverseStart(model=INSTRUCT.name, messages=[message])
    async with gateway_stub(stages) as stub:
        metadata = (("authorization", f"Bearer {secret}"),)
        call = stub.Converse(iter([gateway_pb2.ConverseRequest(start=start)]), metadata=metadata)
        await call.read()

        async def end() -> str:
            try:
                while await call.read() is not grpc.aio.EOF:
                    pass
            except grpc.aio.AioRpcError as error:
                return "revoked_api_key" if error.code() is grpc.StatusCode.UNAUTHENTICATED else error.code().name
            return "its own end"

        yield end()


@asynccontextmanager
async def responding(stages: Stages, secret: str) -> AsyncGenerator[Ending]:
    """The same over a realtime socket."""
    async with socket(stages, secret) as connection:
        content = [{"type": "input_text", "text": "hello"}]
        item = {"type": "message", "role": "user", "content": content}
        await connection.send(json.dumps({"type": "conversation.item.create", "item": item}))
        asked = {"type": "response.create", "response": {"output_modalities": ["text"]}}
        await connection.send(json.dumps(asked))
        while json.loads(await connection.recv())["type"] != "response.output_text.delta":
            pass
        yield closed(connection)


@asynccontextmanager
async def idle(stages: Stages, secret: str) -> AsyncGenerator[Ending]:
    """A realtime socket that waits for its client."""
    async with socket(stages, secret) as connection:
        await connection.recv()
        yield closed(connection)


def socket(stages: Stages, secret: str) -> connect:
    url = stages.gateway.url.replace("http", "ws") + f"/v1/realtime?model={INSTRUCT.name}"
    return connect(url, compression=None, additional_headers=as_key(secret))


async def closed(connection: Any) -> str:
    """Return why the server closed the connection."""
    with suppress(ConnectionClosed):
        while True:
            await connection.recv()
    return connection.close_reason
