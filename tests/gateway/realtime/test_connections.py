"""Who may open a session, how many there may be, and how they end."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from services.common.key_scopes import Scope
from services.gateway.auth import ApiKey
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.talking import LongStory, talking
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.test_auth import sha256

KEY = {"authorization": f"Bearer {API_KEY}"}
PAGE = "https://app.example.org"
ASKED = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}


@asynccontextmanager
async def serving(store: RedisServer, **settings: Any) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, LongStory(frames=4), workers=1, slots=4, **settings) as running:
        yield running
        await wait_until(running.clean)


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with serving(store, cors_origins=[PAGE], realtime_max_sessions=2) as running:
        yield running


def opening(stages: Stages, *, path: str = f"/v1/realtime?model={INSTRUCT.name}", **options: Any) -> connect:
    return connect(stages.gateway.url.replace("http", "ws") + path, compression=None, **options)


async def refusal(stages: Stages, **options: Any) -> tuple[int, str]:
    """Return the status and the error's code of an upgrade that is refused."""
    with pytest.raises(InvalidStatus) as caught:
        async with opening(stages, **options):
            pass
    response = caught.value.response
    assert response.body is not None
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"].startswith("req_")
    return response.status_code, json.loads(response.body)["error"]["code"]


async def told(socket: ClientConnection) -> dict[str, Any]:
    return json.loads(await socket.recv())


async def close_code(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Read to the end. Return why the server closed."""
    with suppress(ConnectionClosed):
        async for _ in socket:
            pass
    return socket.close_code, socket.close_reason


async def test_the_key_is_checked_before_the_upgrade(stages: Stages) -> None:
    assert await refusal(stages) == (401, "missing_api_key")
    assert await refusal(stages, additional_headers={"authorization": "Bearer wrong"}) == (401, "invalid_api_key")
    wrong: Any = ["realtime", "openai-insecure-api-key.wrong"]
    assert await refusal(stages, subprotocols=wrong) == (401, "invalid_api_key")


async def test_a_browser_gives_the_key_as_a_subprotocol(stages: Stages) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{API_KEY}"]
    async with opening(stages, subprotocols=offered, origin=PAGE) as socket:
        assert socket.subprotocol == "realtime"
        created = await told(socket)
    assert (created["type"], created["session"]["model"]) == ("session.created", INSTRUCT.name)
    assert created["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"


async def test_other_upgrades_are_refused_with_a_reason(stages: Stages) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{API_KEY}"]
    foreign = "https://other.example.org"
    assert await refusal(stages, subprotocols=offered, origin=foreign) == (403, "origin_not_allowed")
    basic = {"authorization": "Basic dXNlcjpwYXNz"}  # browsers send what a URL names
    assert await refusal(stages, additional_headers=basic, origin=foreign) == (403, "origin_not_allowed")
    assert await refusal(stages, path="/v1/realtime?model=none", additional_headers=KEY) == (404, "model_not_found")
    assert await refusal(stages, path="/v1/nothing", additional_headers=KEY) == (404, "unknown_url")
    assert await refusal(stages, path="/v1/chat/completions", additional_headers=KEY) == (404, "url_not_served")
    assert (await stages.gateway.client.get("/v1/realtime")).status_code == 426


async def test_a_program_may_send_an_origin_of_the_gateways_host(stages: Stages) -> None:
    """websocket-client does, and with it DashScope's SDK."""
    async with opening(stages, additional_headers=KEY, origin=stages.gateway.url) as socket:
        assert (await told(socket))["type"] == "session.created"


async def test_a_bearer_token_opens_nothing_to_pages(stages: Stages) -> None:
    """A proxy in front of the gateway may make one of a browser's cookie."""
    own = stages.gateway.url
    for foreign in ("https://other.example.org", f"{own}.example.org", own.rpartition(":")[0], "null", ""):
        assert await refusal(stages, additional_headers=KEY, origin=foreign) == (403, "origin_not_allowed"), foreign


async def test_one_tenant_leaves_room_for_sessions_of_others(store: RedisServer) -> None:
    acme, other = ({"authorization": f"Bearer {name}"} for name in ("acme", "beta"))
    keys = {name: [sha256(name)] for name in ("acme", "beta")}
    async with (
        serving(store, api_key="", tenant_keys=keys, realtime_max_sessions=10) as stages,
        AsyncExitStack() as held,
    ):
        for _ in range(9):
            await told(await held.enter_async_context(opening(stages, additional_headers=acme)))
        assert await refusal(stages, additional_headers=acme) == (429, "too_many_sessions")
        assert (await told(await held.enter_async_context(opening(stages, additional_headers=other))))[
            "type"
        ] == "session.created"


async def test_sessions_of_a_tenant_that_have_not_begun_count_as_its_own(store: RedisServer) -> None:
    acme, other = ({"authorization": f"Bearer {name}"} for name in ("acme", "beta"))
    keys = {name: [sha256(name)] for name in ("acme", "beta")}
    async with (
        serving(store, api_key="", tenant_keys=keys, realtime_max_sessions=10) as stages,
        AsyncExitStack() as held,
    ):
        for _ in range(2):  # a client of the Live API says later what session it wants
            await held.enter_async_context(opening(stages, path="/v1/live/sessions", additional_headers=acme))
        for _ in range(7):
            await told(await held.enter_async_context(opening(stages, additional_headers=acme)))
        assert await refusal(stages, additional_headers=acme) == (429, "too_many_sessions")
        created = await told(await held.enter_async_context(opening(stages, additional_headers=other)))
        assert created["type"] == "session.created"


async def test_one_session_too_many_is_refused(stages: Stages) -> None:
    async with opening(stages, additional_headers=KEY) as one, opening(stages, additional_headers=KEY):
        assert await refusal(stages, additional_headers=KEY) == (429, "too_many_sessions")
        await one.close()
        sessions = stages.gateway.gateway.sessions

        async def has_room() -> bool:
            try:
                async with opening(stages, additional_headers=KEY):
                    return True
            except InvalidStatus:
                return False

        await wait_until(has_room)
    await asyncio.wait_for(sessions.drain(), HANGS_AFTER_S)


async def test_a_key_without_the_scope_is_refused(store: RedisServer) -> None:
    async with serving(store) as stages:
        keys = [ApiKey(bytes.fromhex(sha256("chat-key")), "acme", "k1", frozenset({Scope.CHAT}))]
        stages.gateway.gateway.readiness._keys.replace(keys)  # pyright: ignore[reportPrivateUsage]
        headers = {"authorization": "Bearer chat-key"}
        assert await refusal(stages, additional_headers=headers) == (403, "missing_scope")


async def test_idle_and_old_sessions_end(store: RedisServer) -> None:
    for setting, reason in (("realtime_idle_timeout_s", "idle_timeout"), ("realtime_max_session_s", "session_expired")):
        async with serving(store, **{setting: 0.2}) as stages, opening(stages, additional_headers=KEY) as socket:
            assert (await told(socket))["type"] == "session.created"
            error = await told(socket)
            assert (error["type"], error["error"]["code"]) == ("error", reason)
            assert await close_code(socket) == (1001, reason)


async def test_a_drain_ends_idle_sessions_at_once_and_others_after_their_response(store: RedisServer) -> None:
    async with serving(store) as stages, talking(stages) as client:
        stages.talker[0].may_pull.clear()
        await client.say()
        await client.ask("response.create", "response.created")
        async with opening(stages, additional_headers=KEY) as idle:
            await told(idle)
            draining = asyncio.create_task(stages.gateway.gateway.drain())
            assert await close_code(idle) == (1012, "server_restart")
        assert not draining.done()
        stages.talker[0].may_pull.set()
        assert (await client.until("response.done")).response.status == "completed"
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "server_restart")
        await draining


async def test_an_event_that_is_too_large_closes_the_connection(store: RedisServer) -> None:
    async with (
        serving(store, realtime_max_event_bytes=65_536) as stages,
        opening(stages, additional_headers=KEY) as socket,
    ):
        await socket.send("x" * 65_537)
        assert (await close_code(socket))[0] == 1009


async def test_a_client_that_does_not_read_is_closed(store: RedisServer) -> None:
    async with (
        serving(store, body_timeout_s=0.5) as stages,
        opening(stages, additional_headers=KEY, max_queue=1) as socket,
    ):
        await told(socket)
        audio = base64.b64encode(bytes(30_000)).decode()
        item = {"id": "i", "type": "message", "role": "user", "content": [{"type": "input_audio", "audio": audio}]}
        await socket.send(json.dumps({"type": "conversation.item.create", "item": item}))
        ask = json.dumps({"type": "conversation.item.retrieve", "item_id": "i"})

        async def flood() -> None:
            while True:
                await socket.send(ask)

        flooding = asyncio.create_task(flood())
        sessions = stages.gateway.gateway.sessions
        await wait_until(lambda: not sessions.count)
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        assert await close_code(socket) == (1008, "slow_client")


async def test_a_session_holds_no_more_than_it_may(store: RedisServer) -> None:
    async with serving(store, max_media_bytes=80_000, max_body_bytes=100_000) as stages:
        async with opening(stages, additional_headers=KEY) as socket:
            await told(socket)
            manual = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
            await socket.send(json.dumps({"type": "session.update", "session": manual}))
            assert (await told(socket))["type"] == "session.updated"
            append = json.dumps(
                {"type": "input_audio_buffer.append", "audio": base64.b64encode(bytes(40_000)).decode()}
            )
            for _ in range(3):
                await socket.send(append)
            error = (await told(socket))["error"]
            assert error["code"] == "input_audio_buffer_full"
            assert stages.gateway.gateway.memory.budget.held_bytes > 0
            await socket.send('{"type": "input_audio_buffer.commit"}')
            for expected in ("input_audio_buffer.committed", "conversation.item.added", "conversation.item.done"):
                assert (await told(socket))["type"] == expected
            await socket.send(append)
            assert (await told(socket))["error"]["code"] == "session_too_large"
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


async def test_a_revoked_key_ends_the_session(store: RedisServer) -> None:
    async with serving(store) as stages, talking(stages) as client:
        stages.next_calls("talker", Act("hang", 1))
        await client.say()
        await client.ask("response.create", "response.output_audio.delta")
        stages.gateway.turns.has_key = lambda _: False
        stages.gateway.turns.end_revoked()
        done = (await client.until("response.done")).response
        assert (done.status, done.status_details.error.code) == ("failed", "revoked_api_key")
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008


async def test_a_session_begins_nothing_with_a_key_that_has_expired(store: RedisServer) -> None:
    key = ApiKey(bytes.fromhex(sha256("acme")), "acme", "key_1", frozenset({Scope.REALTIME}))
    async with serving(store) as stages:
        keys = stages.gateway.gateway.readiness._keys  # pyright: ignore[reportPrivateUsage]
        keys.replace([key])
        async with opening(stages, additional_headers={"authorization": "Bearer acme"}) as socket:
            assert (await told(socket))["type"] == "session.created"
            keys.change([replace(key, expires_unix_s=time.time() - 1)])
            await socket.send(json.dumps({"type": "conversation.item.create", "item": ASKED}))
            await socket.send('{"type": "response.create"}')
            while (event := await told(socket))["type"] != "response.done":
                assert event["type"] != "error", event
            assert event["response"]["status"] == "failed"
            assert event["response"]["status_details"]["error"]["code"] == "expired_api_key"
            assert await close_code(socket) == (1008, "expired_api_key")
        assert not stages.calls("thinker")


async def test_a_session_transcribes_nothing_with_a_key_that_has_expired(store: RedisServer) -> None:
    key = ApiKey(bytes.fromhex(sha256("acme")), "acme", "key_1", frozenset({Scope.REALTIME}))
    async with serving(store) as stages:
        keys = stages.gateway.gateway.readiness._keys  # pyright: ignore[reportPrivateUsage]
        keys.replace([key])
        async with opening(stages, additional_headers={"authorization": "Bearer acme"}) as socket:
            assert (await told(socket))["type"] == "session.created"
            manual = {"type": "realtime", "audio": {"input": {"turn_detection": None, "transcription": {}}}}
            await socket.send(json.dumps({"type": "session.update", "session": manual}))
            assert (await told(socket))["type"] == "session.updated"
            keys.change([replace(key, expires_unix_s=time.time() - 1)])
            audio = base64.b64encode(bytes(48 * 200)).decode()
            await socket.send(json.dumps({"type": "input_audio_buffer.append", "audio": audio}))
            await socket.send('{"type": "input_audio_buffer.commit"}')
            while not (event := await told(socket))["type"].endswith("transcription.failed"):
                assert event["type"] != "error", event
            assert event["error"]["code"] == "expired_api_key"
            assert await close_code(socket) == (1008, "expired_api_key")
