"""Client secrets over HTTP, as OpenAI's client makes them, and what they open: sessions, chats and Converse."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio
import httpx
import openai
import pytest
import pytest_asyncio
from websockets.exceptions import ConnectionClosed

from services.common.grpc_errors import error_from_rpc
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT, running_gateway
from tests.gateway.realtime.talking import LongStory, talking
from tests.gateway.realtime.test_connections import close_code, opening, refusal, told
from tests.gateway.scripted.control_plane import KEY, ScriptedControl, limit, scripted_control
from tests.gateway.scripted.stages import CHAT, HELLO, Stages, scripted_stages
from tests.gateway.scripted.usage_records import forget_usage, the_record
from tests.gateway.turn.test_converse import gateway_stub, requests

SECRETS = "/v1/realtime/client_secrets"
WAITER: dict[str, Any] = {
    "type": "realtime",
    "model": INSTRUCT.name,
    "instructions": "You are a waiter.",
    "audio": {"output": {"voice": "chelsie"}},
    "max_output_tokens": 50,
}


@asynccontextmanager
async def serving(store: RedisServer, **settings: Any) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, LongStory(frames=4), workers=1, slots=4, **settings) as running:
        yield running
        await wait_until(running.clean)


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with serving(store) as running:
        yield running


async def made(stages: Stages, body: dict[str, Any], key: str = API_KEY) -> httpx.Response:
    return await stages.gateway.client.post(SECRETS, json=body, headers=as_key(key))


async def secret_of(stages: Stages, key: str = API_KEY, **body: Any) -> str:
    response = await made(stages, body, key)
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    return response.json()["value"]


def as_key(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def in_browser(secret: str) -> dict[str, Any]:
    return {"subprotocols": ["realtime", f"openai-insecure-api-key.{secret}"]}


async def test_openai_s_client_makes_a_secret_whose_sessions_begin_with_its_settings(stages: Stages) -> None:
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY) as client:
        session: Any = WAITER
        secret = await client.realtime.client_secrets.create(
            session=session, expires_after={"anchor": "created_at", "seconds": 60}
        )
    assert secret.value.startswith("ek_")
    assert 0 < secret.expires_at - time.time() <= 60
    assert secret.session.type == "realtime"
    assert (secret.session.model, secret.session.instructions) == (INSTRUCT.name, WAITER["instructions"])
    for shown in ({"additional_headers": as_key(secret.value)}, in_browser(secret.value)):
        async with opening(stages, path="/v1/realtime", **shown) as socket:
            opened = (await told(socket))["session"]
        assert (opened["instructions"], opened["max_output_tokens"]) == (WAITER["instructions"], 50)
        assert opened["audio"]["output"]["voice"] == "chelsie"
    async with talking(stages, key=secret.value) as client:
        updated = await client.ask(
            "session.update", "session.updated", session={"type": "realtime", "instructions": ""}
        )
        assert updated.session.instructions == ""
        await client.say()
        await client.ask("response.create", "response.created")
        assert (await client.until("response.done")).response.status == "completed"
    assert stages.calls("talker")[-1].voice == "chelsie"


@pytest.mark.parametrize("turns", [None, {"type": "server_vad", "silence_duration_ms": 900}])
async def test_the_sessions_of_a_secret_take_turns_and_audio_as_it_says(
    stages: Stages, turns: dict[str, Any] | None
) -> None:
    heard = {"format": {"type": "audio/pcmu"}, "turn_detection": turns}
    session = {"type": "realtime", "audio": {"input": heard, "output": {"format": {"type": "audio/pcma"}}}}
    answer = (await made(stages, {"session": session})).json()
    async with opening(stages, additional_headers=as_key(answer["value"])) as socket:
        opened = (await told(socket))["session"]
    for audio in (answer["session"]["audio"], opened["audio"]):
        assert audio["input"]["format"] == heard["format"]
        assert audio["output"]["format"] == {"type": "audio/pcma"}
        detection = audio["input"]["turn_detection"]
        assert detection is None if turns is None else turns.items() <= detection.items()


async def test_a_secret_without_anything_asked_is_one_of_ten_minutes_for_realtime(stages: Stages) -> None:
    answer = (await made(stages, {})).json()
    assert 590 < answer["expires_at"] - time.time() <= 600
    assert "model" not in answer["session"]
    async with opening(stages, additional_headers=as_key(answer["value"])) as socket:
        assert (await told(socket))["session"]["instructions"] == ""


@pytest.mark.parametrize(
    ("body", "status", "param", "code"),
    [
        ({"expires_after": {"seconds": 9}}, 400, "expires_after.seconds", "invalid_value"),
        ({"expires_after": {"seconds": 7201}}, 400, "expires_after.seconds", "invalid_value"),
        ({"expires_after": {"anchor": "now"}}, 400, "expires_after.anchor", "invalid_value"),
        ({"session": {"type": "transcription"}}, 400, "session.type", "invalid_value"),
        ({"session": {"model": "none"}}, 404, "model", "model_not_found"),
        (
            {"session": {"model": INSTRUCT.name, "audio": {"output": {"voice": "nobody"}}}},
            400,
            "session.audio.output.voice",
            "invalid_voice",
        ),
        ({"session": {"instructions": "x", "type": "realtime"}, "scope": "chat"}, 400, "session", "invalid_value"),
        ({"scope": "admin_read"}, 400, "scope", "invalid_value"),
        ({"scope": "files"}, 400, "scope", "invalid_value"),
        ({"sesion": {}}, 400, "sesion", "unknown_parameter"),
    ],
)
async def test_what_no_secret_can_be_for_is_named(
    stages: Stages, body: dict[str, Any], status: int, param: str, code: str
) -> None:
    response = await made(stages, body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (status, param, code)


async def test_a_secret_is_for_one_scope_one_model_and_no_further_secret(stages: Stages) -> None:
    secret = await secret_of(stages, scope="chat", session={"model": INSTRUCT.name})
    post, mine = stages.gateway.client.post, as_key(secret)
    assert (await post(CHAT, json={"messages": HELLO}, headers=mine)).status_code == 200
    refused = await post(CHAT, json={"messages": HELLO, "model": "another"}, headers=mine)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "model_not_allowed")
    refused = await post("/v1/audio/speech", json={"input": "Hello."}, headers=mine)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "missing_scope")
    assert await refusal(stages, additional_headers=mine) == (403, "missing_scope")
    refused = await made(stages, {}, secret)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "api_key_needed")


async def test_converse_takes_a_secret_of_its_scope(stages: Stages) -> None:
    def shown(secret: str) -> Any:
        return (("authorization", f"Bearer {secret}"),)

    async with gateway_stub(stages) as stub:
        answer = stub.Converse(iter(requests()), metadata=shown(await secret_of(stages, scope="chat")))
        events = [event async for event in answer]
        assert [token for event in events for token in event.text.token_ids] == stages.story.token_ids
        # It writes nothing: a client that still writes may not hear why it was refused.
        refused = stub.Converse(metadata=shown(await secret_of(stages)))
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await refused.read()
    assert error_from_rpc(failed.value, "gateway").code == "missing_scope"


async def test_a_setting_that_the_model_lacks_refuses_the_session(stages: Stages) -> None:
    """The secret was made without a model, so nothing could be checked then."""
    secret = await secret_of(stages, session={"type": "realtime", "audio": {"output": {"voice": "nobody"}}})
    assert await refusal(stages, additional_headers=as_key(secret)) == (400, "invalid_voice")


async def test_gateways_without_keys_make_secrets_too(store: RedisServer) -> None:
    async with serving(store, api_key="", allow_anonymous=True) as stages:
        secret = await secret_of(stages, session=WAITER)
        async with opening(stages, additional_headers=as_key(secret)) as socket:
            assert (await told(socket))["session"]["instructions"] == WAITER["instructions"]
        wrong = secret[:-8] + "AAAAAAAA"
        assert await refusal(stages, additional_headers=as_key(wrong)) == (401, "invalid_api_key")


async def test_on_all_gateways_a_secret_counts_to_its_key_and_ends_with_it(store: RedisServer) -> None:
    await forget_usage(store)
    async with scripted_control() as control:
        control.limit("key_1", limit("requests_per_minute", 1))
        async with (
            serving(store, **control.settings) as first,
            running_gateway(store.url, **control.settings) as second,
        ):
            await check_a_secret_on_both(
                control, first, Stages(second, store.url, first.story, 4, first.stack, INSTRUCT)
            )
            record = await the_record(store)
            assert (record.key_id, record.kind) == ("key_1", "realtime")


async def check_a_secret_on_both(control: ScriptedControl, first: Stages, second: Stages) -> None:
    async def knows_the_key() -> bool:
        return (await second.gateway.client.get("/v1/models", headers=as_key(KEY))).status_code == 200

    await wait_until(knows_the_key)
    secret = await secret_of(first, KEY)
    async with talking(first, key=secret) as client, opening(second, additional_headers=as_key(secret)) as idle:
        assert (await told(idle))["type"] == "session.created"
        await client.say()
        await client.ask("response.create", "response.created")
        assert (await client.until("response.done")).response.status == "completed"
        body = {"model": INSTRUCT.name, "messages": HELLO}
        refused = await second.gateway.client.post(CHAT, json=body, headers=as_key(KEY))
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
        control.keys = [key for key in control.keys if key.key_id != "key_1"]  # it is revoked
        control.tell()
        assert await close_code(idle) == (1008, "revoked_api_key")
        with pytest.raises(ConnectionClosed) as closed:
            await client.next()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1008, "revoked_api_key")
    for each in (first, second):
        assert await refusal(each, additional_headers=as_key(secret)) == (401, "invalid_api_key")
