"""The API as it was in its beta, spoken by OpenAI's beta client and by a socket alone."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import openai
import pytest
import pytest_asyncio
from hypothesis import given, settings
from openai.types.beta.realtime.realtime_server_event import RealtimeServerEvent
from pydantic import TypeAdapter
from websockets.asyncio.client import connect

from services.common.errors import BadInput
from services.gateway.realtime.conversation import wav_of
from services.gateway.realtime.openai.beta import event_from
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.hostile import any_values
from tests.gateway.realtime.talking import PCM, Client, LongStory
from tests.gateway.realtime.test_hostile_events import FIELDS, WORDS
from tests.gateway.responses.conftest import CALL, WEATHER, card
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import SaidStory

KEY = {"authorization": f"Bearer {API_KEY}"}
BETA = {**KEY, "openai-beta": "realtime=v1"}
SERVER_EVENT: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, LongStory(frames=4), workers=1, slots=8) as running:
        yield running
        await wait_until(running.clean)


@asynccontextmanager
async def talking(stages: Stages, **session: Any) -> AsyncGenerator[Client]:
    """Connect with OpenAI's beta client, with manual turns."""
    async with (
        openai.AsyncOpenAI(api_key=API_KEY, websocket_base_url=socket_url(stages)) as made,
        made.beta.realtime.connect(model=INSTRUCT.name) as connection,
    ):
        client = Client(connection)
        await client.until("conversation.created")
        await client.ask("session.update", "session.updated", session={"turn_detection": None, **session})
        yield client


def socket_url(stages: Stages) -> str:
    return stages.gateway.url.replace("http", "ws") + "/v1"


def url_of(stages: Stages) -> str:
    return socket_url(stages) + f"/realtime?model={INSTRUCT.name}"


async def test_a_spoken_turn_has_the_events_of_the_beta(stages: Stages) -> None:
    async with talking(stages, instructions="Be kind.", max_response_output_tokens=50) as client:
        created, _, updated = client.events
        assert created.session.turn_detection.type == "server_vad"
        assert (updated.session.modalities, updated.session.turn_detection) == (["audio", "text"], None)
        assert (updated.session.input_audio_format, updated.session.output_audio_format) == ("pcm16", "pcm16")
        assert updated.session.max_response_output_tokens == 50
        await client.send("input_audio_buffer.append", audio=base64.b64encode(PCM).decode())
        said = (await client.ask("input_audio_buffer.commit", "conversation.item.created")).item
        assert (said.role, said.content[0].type) == ("user", "input_audio")
        seen = len(client.events)
        done = (await client.ask("response.create", "response.done")).response
        events = client.events[seen:]
        deltas = ("response.audio.delta", "response.audio_transcript.delta")
        assert [event.type for event in events if event.type not in deltas] == [
            "response.created",
            "response.output_item.added",
            "conversation.item.created",
            "response.content_part.added",
            "response.audio.done",
            "response.audio_transcript.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.done",
        ]
        audio = b"".join(base64.b64decode(event.delta) for event in events if event.type == deltas[0])
        assert audio == stages.story.pcm
        assert (done.modalities, done.output_audio_format, done.max_output_tokens) == (["audio", "text"], "pcm16", 50)
        content = done.output[0].content[0]
        assert (content.type, content.transcript) == ("audio", stages.story.text)
        assert stages.preprocess[0].media == [[wav_of(PCM)]]
        assert stages.calls("preprocess")[0].messages[0].parts[0].text == "Be kind."


async def test_text_and_the_options_of_one_response(stages: Stages) -> None:
    async with talking(stages) as client:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
        await client.ask("conversation.item.create", "conversation.item.created", item=item)
        item = {"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hello."}]}
        past = (await client.ask("conversation.item.create", "conversation.item.created", item=item)).item
        assert past.content[0].type == "text"
        options: dict[str, Any] = {"modalities": ["text"], "max_response_output_tokens": 7, "conversation": "none"}
        done = (await client.ask("response.create", "response.done", response=options)).response
        assert (done.modalities, done.max_output_tokens, done.conversation_id) == (["text"], 7, None)
        assert done.output[0].content[0].text == stages.story.text
        deltas = [event.delta for event in client.events if event.type == "response.text.delta"]
        assert "".join(deltas) == stages.story.text


async def test_a_telephone_speaks_and_hears_g711(stages: Stages) -> None:
    async with talking(stages, input_audio_format="g711_ulaw", output_audio_format="g711_alaw") as client:
        shown = client.events[-1].session
        assert (shown.input_audio_format, shown.output_audio_format) == ("g711_ulaw", "g711_alaw")
        await client.send("input_audio_buffer.append", audio=base64.b64encode(b"\xff" * 1600).decode())
        await client.ask("input_audio_buffer.commit", "conversation.item.created")
        done = (await client.ask("response.create", "response.done")).response
        assert done.output_audio_format == "g711_alaw"
        ((heard,),) = stages.preprocess[0].media
        assert len(heard) == 44 + 200 * 48


async def test_functions_are_called(store: RedisServer) -> None:
    async with scripted_stages(store.url, SaidStory(said=CALL), card=card(), workers=1, slots=8) as stages:
        async with talking(stages, tools=[WEATHER], modalities=["text"]) as client:
            assert client.events[-1].session.tools[0].name == "weather"
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Rain?"}]}
            await client.ask("conversation.item.create", "conversation.item.created", item=item)
            whole = await client.ask("response.create", "response.function_call_arguments.done")
            done = (await client.until("response.done")).response
            assert json.loads(whole.arguments) == {"city": "Oslo"}
            assert (done.output[1].type, done.output[1].call_id) == ("function_call", whole.call_id)
            output = {"type": "function_call_output", "call_id": whole.call_id, "output": "Rain."}
            shown = (await client.ask("conversation.item.create", "conversation.item.created", item=output)).item
            assert shown.output == "Rain."
        await wait_until(stages.clean)


async def test_mistakes_name_the_fields_of_the_beta(stages: Stages) -> None:
    async with talking(stages) as client:

        async def update(**session: Any) -> Any:
            return await client.error("session.update", session=session)

        voice = await update(voice="nobody")
        assert (voice.param, voice.code) == ("voice", "invalid_voice")
        assert "'voice'" in voice.message
        assert (await update(input_audio_format="opus")).param == "session.input_audio_format"
        assert (await update(turn_detection={"threshold": 3})).param == "session.turn_detection.threshold"
        assert (await update(modalities=["smell"])).param.startswith("session.modalities")
        assert (await update(max_response_output_tokens=0)).param.startswith("session.max_response_output_tokens")
        new = await update(audio={"output": {"voice": "ethan"}})
        assert (new.param, new.code) == ("session.audio", "unknown_parameter")
        assert (await client.error("nothing")).param == "type"


@pytest.mark.parametrize("by", ["header", "subprotocol"])
async def test_a_header_or_a_subprotocol_asks_for_it(stages: Stages, by: str) -> None:
    offered: Any = ["realtime", f"openai-insecure-api-key.{API_KEY}", "openai-beta.realtime-v1"]
    options: dict[str, Any] = {"subprotocols": offered} if by == "subprotocol" else {"additional_headers": BETA}
    async with connect(url_of(stages), compression=None, **options) as socket:
        assert socket.subprotocol == ("realtime" if by == "subprotocol" else None)
        created = json.loads(await socket.recv())
        assert (created["type"], created["session"]["modalities"]) == ("session.created", ["audio", "text"])
        assert not {"type", "audio", "output_modalities"} & created["session"].keys()
        await socket.recv()
        for kind, fields in (("session.update", {"session": {}}), ("input_audio_buffer.clear", {}), ("nothing", {})):
            await socket.send(json.dumps({"type": kind, **fields}))
            event = json.loads(await socket.recv())
            event.get("session", {})["model"] = "gpt-realtime"  # the client's type knows OpenAI's models alone
            assert SERVER_EVENT.validate_python(event).event_id == event["event_id"]


async def test_another_beta_is_none_of_realtime(stages: Stages) -> None:
    headers = {**KEY, "openai-beta": "assistants=v2"}
    async with connect(url_of(stages), compression=None, additional_headers=headers) as socket:
        assert json.loads(await socket.recv())["session"]["type"] == "realtime"


@settings(max_examples=50, deadline=None)
@given(any_values(WORDS, FIELDS), any_values(WORDS, FIELDS))
def test_any_value_is_translated_or_refused(session: object, response: object) -> None:
    for kind, name in (("session.update", "session"), ("response.create", "response")):
        for value in (session, response, dict.fromkeys(FIELDS, session)):
            with suppress(BadInput):
                assert event_from({"type": kind, name: value})["type"] == kind
