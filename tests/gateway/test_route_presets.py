"""Presets that the operator has routes ask for, where requests say nothing of one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio

from antiphon.v1 import gateway_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, CAPTIONER, INSTRUCT
from tests.gateway.realtime.talking import Client
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, Stages, scripted_stages
from tests.gateway.test_presets import ASSISTANT, HEARD_ITEMS, NATIVE, TASKS, heard, post, respond
from tests.gateway.turn.test_converse import converse, gateway_stub

pytestmark = pytest.mark.asyncio(loop_scope="module")
SPOKEN: dict[str, Any] = {"messages": [{"role": "user", "content": [{"audio": "data:audio/wav;base64,AAAA"}]}]}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def asking_routes(store: RedisServer) -> AsyncIterator[Stages]:
    routes: dict[str, Any] = {
        "chat": "voice-assistant",
        "responses": {"name": "translation", "to_language": "fr"},
        "dashscope": "lyrics",
        "converse": "voice-assistant",
        "realtime": "voice-assistant",
    }
    async with scripted_stages(store.url, captioner=True, route_presets=routes) as running:
        yield running
        await wait_until(running.clean)


async def test_a_route_asks_for_its_preset(asking_routes: Stages) -> None:
    stages, client = asking_routes, asking_routes.gateway.client
    assert (await client.post(CHAT, json={"model": INSTRUCT.name, "messages": HELLO})).status_code == 200
    assert heard(stages)[0].parts[0].text.startswith(f"{ASSISTANT} You are a virtual voice assistant")
    answer = await respond(stages, input=HEARD_ITEMS)
    assert answer.status_code == 200
    assert heard(stages)[-1].parts[1].text.endswith("a translation in French text.")
    assert (await client.post(NATIVE, json={"model": INSTRUCT.name, "input": SPOKEN})).status_code == 200
    assert heard(stages)[-1].parts[1].text == TASKS["lyrics"]


async def test_a_request_says_what_it_wants_in_place_of_its_routes_preset(asking_routes: Stages) -> None:
    assert (await post(asking_routes, HELLO, None)).status_code == 200
    assert [message.role for message in heard(asking_routes)] == ["user"]
    assert (await post(asking_routes, HEARD, "lyrics")).status_code == 200
    assert heard(asking_routes)[-1].parts[1].text == TASKS["lyrics"]
    body = {"model": INSTRUCT.name, "input": SPOKEN, "parameters": {"antiphon_preset": None}}
    assert (await asking_routes.gateway.client.post(NATIVE, json=body)).status_code == 200
    assert len(heard(asking_routes)[-1].parts) == 1


async def test_a_routes_task_is_for_media_without_a_text(asking_routes: Stages) -> None:
    content = [*HEARD[0]["content"], {"type": "input_text", "text": "Who?"}]
    said = {"type": "message", "role": "user", "content": content}
    for asked in ("hello", [said]):
        assert (await respond(asking_routes, input=asked)).status_code == 200
        assert "translation" not in heard(asking_routes)[-1].parts[-1].text


async def test_a_captioner_is_asked_nothing(asking_routes: Stages) -> None:
    body = {"model": CAPTIONER.name, "messages": HEARD}
    assert (await asking_routes.gateway.client.post(CHAT, json=body)).status_code == 200
    assert [message.role for message in heard(asking_routes)] == ["user"]


async def test_the_list_says_which_routes_ask_for_a_preset(asking_routes: Stages) -> None:
    presets = (await asking_routes.gateway.client.get("/v1/presets")).json()["data"]
    routes = {preset["id"]: preset["routes"] for preset in presets}
    assert routes["voice-assistant"] == ["chat", "converse", "realtime"]
    assert (routes["translation"], routes["lyrics"], routes["transcription"]) == (["responses"], ["dashscope"], [])


async def test_a_session_begins_with_its_routes_preset(asking_routes: Stages) -> None:
    async with (
        openai.AsyncOpenAI(base_url=f"{asking_routes.gateway.url}/v1", api_key=API_KEY) as made,
        made.realtime.connect(model=INSTRUCT.name) as connection,
    ):
        client = Client(connection)
        created = await client.until("session.created")
        assert created.session.antiphon_preset["name"] == "voice-assistant"
        await client.write("hello")
        await client.ask("response.create", "response.done")
        assert heard(asking_routes)[0].parts[0].text.startswith(ASSISTANT)
        nothing = {"type": "realtime", "antiphon_preset": None}
        updated = await client.ask("session.update", "session.updated", session=nothing)
        assert not hasattr(updated.session, "antiphon_preset")
        await client.ask("response.create", "response.done")
        assert heard(asking_routes)[0].role == "user"


async def test_converse_asks_for_its_preset(asking_routes: Stages) -> None:
    async with gateway_stub(asking_routes) as stub:
        assert [event async for event in converse(stub)]
        assert [message.role for message in heard(asking_routes)] == ["system", "user"]
        assert [event async for event in converse(stub, preset=gateway_pb2.Preset(name="lyrics"))]
        assert [message.role for message in heard(asking_routes)] == ["user"]
