"""How Live sessions start and end: keys, refusals, reasons."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from pydantic import SecretStr
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from services.common.key_scopes import Scope
from services.gateway.auth import ApiKey
from services.gateway.realtime.live import connection
from services.gateway.realtime.session import Session
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, THINKING, running_gateway
from tests.gateway.realtime.live.conversing import (
    AUDIO,
    SAID,
    USED,
    LiveClient,
    connected,
    conversing,
    prompts,
    serving,
    utterance,
)
from tests.gateway.realtime.talking import PCM, Client
from tests.gateway.realtime.test_client_secrets import secret_of
from tests.gateway.realtime.test_connections import KEY, PAGE, close_code, opening, refusal, told
from tests.gateway.scripted.control_plane import KEY as CONTROLLED
from tests.gateway.scripted.control_plane import limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages
from tests.gateway.scripted.usage_records import usage_records
from tests.gateway.test_auth import sha256
from tests.gateway.turn.test_limits import limited

PATH = "/v1/live/sessions"
START = json.dumps({"type": "session.start", "event_id": "mine", "session": {"model": INSTRUCT.name}})
LIVE: dict[str, Any] = {"path": PATH, "additional_headers": KEY}


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with serving(store, cors_origins=[PAGE], realtime_max_sessions=2) as running:
        yield running


async def begun(socket: ClientConnection) -> dict[str, Any]:
    await socket.send(START)
    started = await told(socket)
    assert started["type"] == "session.started", started
    return started["session"]


async def closed(client: LiveClient) -> tuple[str, str, int, str]:
    """Read to the end. Return why the session closed, in the API's words and ours, and the connection's close code."""
    event = await client.until("session.closed")
    assert event.usage.seconds >= 0
    assert event.session.status == "active"
    with pytest.raises(ConnectionClosed) as caught:
        await client.next()
    received = caught.value.rcvd
    assert received is not None
    return event.reason, event.antiphon_reason, received.code, received.reason


# The upgrade


async def test_the_key_is_checked_before_the_upgrade(stages: Stages) -> None:
    assert await refusal(stages, path=PATH) == (401, "missing_api_key")
    wrong: Any = ["realtime", "openai-insecure-api-key.wrong"]
    assert await refusal(stages, path=PATH, subprotocols=wrong) == (401, "invalid_api_key")
    offered: Any = ["realtime", f"openai-insecure-api-key.{API_KEY}"]
    foreign = {"path": PATH, "subprotocols": offered, "origin": "https://other.example.org"}
    assert await refusal(stages, **foreign) == (403, "origin_not_allowed")
    query = {**LIVE, "path": f"{PATH}?model={INSTRUCT.name}"}
    assert await refusal(stages, **query) == (400, "invalid_value")
    assert await refusal(stages, **LIVE | {"path": f"{PATH}?session_id=sess_1"}) == (400, "sessions_not_kept")
    assert (await stages.gateway.client.get(PATH)).status_code == 426
    keys = [ApiKey(bytes.fromhex(sha256("chat-key")), "acme", "k1", frozenset({Scope.CHAT}))]
    stages.gateway.gateway.readiness._keys.replace(keys)  # pyright: ignore[reportPrivateUsage]
    headers = {"authorization": "Bearer chat-key"}
    assert await refusal(stages, path=PATH, additional_headers=headers) == (403, "missing_scope")


async def test_a_browser_gives_the_key_as_a_subprotocol(stages: Stages) -> None:
    offered: Any = [f"openai-insecure-api-key.{API_KEY}", "realtime"]
    async with opening(stages, path=PATH, subprotocols=offered, origin=PAGE) as socket:
        assert socket.subprotocol == "realtime"
        assert (await begun(socket))["model"] == INSTRUCT.name


async def test_a_client_secret_says_what_its_sessions_begin_with(stages: Stages) -> None:
    session = {"type": "realtime", "model": INSTRUCT.name, "instructions": "Be kind.", "temperature": 0.5}
    session |= {"audio": {"input": {"turn_detection": None}, "output": {"voice": "chelsie"}}, "max_output_tokens": 50}
    made = await stages.gateway.client.post("/v1/realtime/client_secrets", json={"session": session}, headers=KEY)
    secret = made.json()["value"]
    async with conversing(stages, key=secret) as client:
        shown = client.events[0].session
        assert (shown.instructions, shown.audio.output.voice) == ("Be kind.", "chelsie")
        await client.append(utterance())  # turns are always heard
        await client.until(USED)
    # Of the answer; the transcript has its own.
    assert 0.5 in [call.sampling.temperature for call in stages.calls("thinker")]
    async with connected(stages.gateway.url, secret) as client:
        error = await client.error("session.start", session={"model": "another"})
        assert error.param == "model"


@pytest.mark.parametrize("preset", ["voice-assistant", "translation"])
async def test_of_a_secret_s_presets_the_assistant_alone_holds(stages: Stages, preset: str) -> None:
    session = {"type": "realtime", "model": INSTRUCT.name, "antiphon_preset": preset}
    async with conversing(stages, key=await secret_of(stages, session=session)) as client:
        await client.append(utterance())
        await client.until(USED)
        await client.connection.session.commentary.append(content="Go on.", delegation_id=None)
        while (event := await client.next()).type != USED:
            assert event.type != "error", event
        roles = ["system"] if preset == "voice-assistant" else []
        assert [[role for role, _ in prompt] for prompt in prompts(stages)] == [
            [*roles, "user"],
            [*roles, "user", "assistant", "system"],
        ]
        assert {text for role, text in prompts(stages)[-1] if role == "user"} == {""}


async def test_those_that_have_not_started_take_room_too(stages: Stages) -> None:
    async with opening(stages, **LIVE) as first, opening(stages, **LIVE):
        assert await refusal(stages, **LIVE) == (429, "too_many_sessions")
        await begun(first)
        assert await refusal(stages, **LIVE) == (429, "too_many_sessions")


async def test_one_tenant_that_does_not_start_leaves_room_to_others(store: RedisServer) -> None:
    async with serving(store, realtime_max_sessions=5) as stages:
        digests = [(bytes.fromhex(sha256(name)), name) for name in ("acme", "other")]
        keys = [ApiKey(digest, name, name, frozenset({Scope.REALTIME})) for digest, name in digests]
        stages.gateway.gateway.readiness._keys.replace(keys)  # pyright: ignore[reportPrivateUsage]
        acme: dict[str, Any] = LIVE | {"additional_headers": {"authorization": "Bearer acme"}}
        other: dict[str, Any] = LIVE | {"additional_headers": {"authorization": "Bearer other"}}
        async with opening(stages, **acme) as first, opening(stages, **acme):
            assert await refusal(stages, **acme) == (429, "too_many_sessions")
            async with opening(stages, **other) as foreign:
                await begun(foreign)
            await begun(first)
            async with opening(stages, **acme) as third:
                await begun(third)


# The start


async def test_what_comes_before_the_start_is_refused(stages: Stages) -> None:
    async with opening(stages, **LIVE) as socket:
        early = {"type": "session.input_audio.append", "audio": "AAAA", "event_id": "early"}
        for message, code in (
            (json.dumps(early), "session_not_started"),
            ("?", "invalid_json"),
            (b"?", "invalid_json"),
        ):
            await socket.send(message)
            assert (await told(socket))["error"]["code"] == code
        await begun(socket)


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ({"model": 1}, "session.model"),
        ({"model": THINKING.name}, "model"),
        ({"model": INSTRUCT.name, "audio": {"output": {"voice": "nobody"}}}, "session.audio.output.voice"),
        (
            {"model": INSTRUCT.name, "audio": {"format": {"type": "audio/pcm", "rate": 8000}}},
            "session.audio.format.rate",
        ),
        ({"model": INSTRUCT.name, "delegation": {"type": "responses"}}, "session.delegation.type"),
        ({"model": INSTRUCT.name, "store": True}, "session.store"),
        ({"model": INSTRUCT.name, "input": [{"role": "user", "content": []}]}, "session.input[0].content"),
        ({"model": INSTRUCT.name, "tools": []}, "session.tools"),
    ],
)
async def test_a_start_that_is_wrong_ends_the_connection(stages: Stages, session: dict[str, Any], param: str) -> None:
    async with opening(stages, **LIVE) as socket:
        await socket.send(json.dumps({"type": "session.start", "event_id": "mine", "session": session}))
        error = (await told(socket))["error"]
        assert (error["param"], error["client_event_id"]) == (param, "mine")
        assert await close_code(socket) == (1008, error["code"])
    await wait_until(lambda: not stages.gateway.gateway.sessions.count)


async def test_a_limit_on_sessions_refuses_the_start(store: RedisServer) -> None:
    async with limited(store, limit("concurrent_sessions", 1)) as running:
        headers: dict[str, Any] = {"additional_headers": {"authorization": f"Bearer {CONTROLLED}"}, "path": PATH}
        async with opening(running.stages, **headers) as first, opening(running.stages, **headers) as second:
            await begun(first)
            await second.send(START)
            assert (await told(second))["error"]["code"] == "rate_limit_exceeded"
            assert await close_code(second) == (1013, "rate_limit_exceeded")


async def test_a_client_that_does_not_start_is_closed(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "START_S", 0.2)
    async with opening(stages, **LIVE) as socket:
        assert (await told(socket))["code"] == "idle_timeout"
        assert await close_code(socket) == (1001, "idle_timeout")


async def test_answers_are_paid_for_as_in_other_dialects(store: RedisServer) -> None:
    async with limited(store) as running:
        async with conversing(running.stages, key=CONTROLLED) as client:
            await client.connection.session.commentary.append(content="Say hello.", delegation_id=None)
            await client.until(USED)

        async def is_written() -> bool:
            return [(record.key_id, record.kind) for record in await usage_records(store)] == [("key_1", "realtime")]

        await wait_until(is_written)


async def test_a_limit_that_cuts_an_answer_is_told(store: RedisServer) -> None:
    few = limit("answer_tokens_per_minute", 4)
    async with limited(store, few) as running, conversing(running.stages, key=CONTROLLED) as client:
        await client.connection.session.commentary.append(content="Say hello.", delegation_id=None)
        assert (await client.until("info")).code == "answer_tokens_per_minute"
        await client.until(USED)


# The end


async def test_a_client_asks_for_the_end(stages: Stages) -> None:
    async with conversing(stages) as client:
        stages.next_calls("talker", Act("hang", 2))
        await client.append(utterance())
        await client.until(AUDIO)
        await client.connection.session.close(event_id="bye")
        assert await closed(client) == ("close_requested", "close_requested", 1000, "close_requested")
        assert client.events[-1].client_event_id == "bye"
        assert client.events[-1].usage.seconds > 1


async def test_idle_and_old_sessions_end(store: RedisServer) -> None:
    for setting, why in (("realtime_idle_timeout_s", "idle_timeout"), ("realtime_max_session_s", "session_expired")):
        short: dict[str, Any] = {setting: 1.0}
        async with serving(store, **short) as stages, conversing(stages) as client:
            assert (await client.until("info")).code == why
            assert await closed(client) == ("expired", why, 1001, why)


async def test_a_drain_tells_clients_to_connect_again(store: RedisServer) -> None:
    async with serving(store) as stages, conversing(stages) as client:
        stages.talker[0].may_pull.clear()
        await client.append(utterance())
        await wait_until(lambda: len(stages.calls("talker")) == 1)
        async with conversing(stages) as idle, opening(stages, **LIVE) as late:
            draining = asyncio.create_task(stages.gateway.gateway.drain())
            assert (await idle.until("info")).code == "server_restart"
            assert await closed(idle) == ("connection_lost", "server_restart", 1012, "server_restart")
            await late.send(START)
            assert (await told(late))["error"]["code"] == "unavailable"
            assert (await close_code(late))[0] == 1013
        assert not draining.done()
        stages.talker[0].may_pull.set()
        await client.until(USED)
        assert client.transcript() == stages.story.text
        assert (await closed(client))[2:] == (1012, "server_restart")
        await draining


async def test_a_revoked_key_and_a_fault_end_the_session(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    sessions = stages.gateway.gateway.sessions
    async with conversing(stages) as client:
        with monkeypatch.context() as revoked:
            revoked.setattr(sessions, "_has_key", lambda _: False)
            sessions.end_revoked()
        assert (await client.until("error")).error.code == "revoked_api_key"
        assert await closed(client) == ("connection_lost", "revoked_api_key", 1008, "revoked_api_key")
    async with conversing(stages) as client:

        async def fail(*_: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(Session, "append_audio", fail)
        await client.append(PCM)
        error = (await client.until("error")).error
        assert (error.code, "a fault" in error.message) == ("internal_error", False)
        assert await closed(client) == ("connection_lost", "internal_error", 1011, "internal_error")


async def test_a_start_that_fails_is_a_fault_of_ours(stages: Stages, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Session, "set_options", fail)
    async with opening(stages, **LIVE) as socket:
        await socket.send(START)
        assert (await told(socket))["error"]["code"] == "internal_error"
        assert await close_code(socket) == (1011, "internal_error")


# Going on


async def test_a_session_goes_on_at_another_gateway(store: RedisServer) -> None:
    kept: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}
    async with serving(store, **kept) as stages, running_gateway(store.url, **kept) as other:
        async with conversing(stages, instructions="Be kind.", audio={"output": {"voice": "chelsie"}}) as client:
            session_id = client.events[0].session.id
            await client.connection.session.instructions.append(content="Be brief.", delegation_id=None)
            await client.append(utterance())
            await client.until(USED)
            await client.connection.session.close()
            await closed(client)

        async def is_ready() -> bool:
            return (await other.client.get("/health/ready")).status_code == 200

        await wait_until(is_ready)
        url = f"http://127.0.0.1:{other.port}"
        async with connected(url, session_id=session_id) as again:
            error = await again.error("session.start", session={"model": INSTRUCT.name, "instructions": "Be rude."})
            assert error.param == "session.instructions"
        async with connected(url, session_id=session_id) as again:
            await again.send("session.start", session={"audio": {"format": {"type": "audio/pcm", "rate": 16_000}}})
            shown = (await again.until("session.started")).session
            assert (shown.id, shown.instructions) == (session_id, "Be kind.\n\nBe brief.")
            assert (shown.audio.output.voice, shown.audio.format.rate) == ("chelsie", 16_000)
            await again.connection.session.commentary.append(content="Go on.", delegation_id=None)
            await again.until(USED)
            assert [role for role, _ in prompts(stages)[-1]] == ["system", "user", "assistant", "system"]
            assert again.of(SAID)
        # Its settings and items are those of a session of the Realtime API.
        async with (
            openai.AsyncOpenAI(base_url=url + "/v1", api_key=API_KEY) as made,
            made.realtime.connect(model=INSTRUCT.name, extra_query={"session_id": session_id}) as connection,
        ):
            shown = (await Client(connection).until("session.created")).session
            assert (shown.id, shown.instructions) == (session_id, "Be kind.\n\nBe brief.")
            assert shown.audio.output.voice == "chelsie"


async def test_a_session_goes_on_as_it_is_when_its_client_starts(store: RedisServer) -> None:
    kept: dict[str, Any] = {"realtime_session_key": SecretStr("a key of the operator's, 24 chars")}
    async with serving(store, **kept) as stages:
        url = stages.gateway.url
        async with conversing(stages) as client:
            session_id = client.events[0].session.id
            await client.connection.session.thinking.append(content="one", delegation_id=None)
            await client.until("session.thinking.appended")
            await client.connection.session.close()
            await closed(client)
        async with connected(url, session_id=session_id) as late:
            async with connected(url, session_id=session_id) as early:
                await early.ask("session.start", "session.started", session={})
                await early.connection.session.thinking.append(content="two", delegation_id=None)
                await early.connection.session.instructions.append(content="Be brief.", delegation_id=None)
                await early.until("session.instructions.appended")
                await early.connection.session.close()
                await closed(early)
            shown = (await late.ask("session.start", "session.started", session={})).session
            assert shown.instructions == "Be brief."
            await late.connection.session.commentary.append(content="Go on.", delegation_id=None)
            await late.until(USED)
            told = [text.rpartition("\n")[2] for _, text in prompts(stages)[-1]]
            assert told == ["Be brief.", "one", "two", "Go on."]
        assert await refusal(stages, **LIVE | {"path": f"{PATH}?session_id=sess_1"}) == (404, "session_not_found")
