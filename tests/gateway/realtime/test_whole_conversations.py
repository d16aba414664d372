"""One conversation, spoken, interrupted, with a function and an image, held by OpenAI's clients of both APIs."""

from __future__ import annotations

import json
from typing import Any

import openai

from tests.clients.conversations import OSLO, PNG, SCRIPT, heard_words
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.realtime.obedient_stages import stages
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_server_vad import utterance
from tests.gateway.responses.conftest import WEATHER
from tests.gateway.scripted.stages import Stages

__all__ = ["stages"]

HEARD_MS = 450


async def answer(client: Client) -> str:
    """Return what the next answer says that is not interrupted."""
    while (done := (await client.until("response.done")).response).status == "cancelled":
        pass
    assert done.status == "completed"
    return done.output[0].content[0].transcript


async def ask(client: Client, *content: dict[str, Any]) -> None:
    await client.send("conversation.item.create", item={"type": "message", "role": "user", "content": content})
    await client.send("response.create")


async def hold(client: Client, audio_delta: str) -> None:
    """Hold the conversation. `audio_delta`: the event that brings audio."""
    await client.append(utterance())
    deltas = [await client.until(audio_delta) for _ in range(10)]
    await client.append(silence(400) + said("hello"))
    await client.until("input_audio_buffer.speech_started")
    cut = {"item_id": deltas[0].item_id, "content_index": 0, "audio_end_ms": HEARD_MS}
    await client.send("conversation.item.truncate", **cut)
    await client.until("conversation.item.truncated")
    await client.append(silence(900))
    assert await answer(client) == heard_words(HEARD_MS)
    await ask(client, {"type": "input_text", "text": OSLO})
    call = await client.until("response.function_call_arguments.done")
    assert json.loads(call.arguments) == {"city": "Oslo"}
    await client.until("response.done")
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    await client.send("conversation.item.create", item=output)
    await client.send("response.create")
    assert await answer(client) == "It rains in Oslo."
    image = {"type": "input_image", "image_url": f"data:image/png;base64,{PNG}"}
    await ask(client, image, {"type": "input_text", "text": "read -1"})
    assert await answer(client) == "<image>\nread -1"
    assert "error" not in client.types


async def test_the_api_as_it_is(stages: Stages) -> None:
    session: dict[str, Any] = {"instructions": SCRIPT, "tools": [WEATHER]}
    async with talking(stages, {"type": "server_vad"}, **session) as client:
        await hold(client, "response.output_audio.delta")


async def test_the_beta(stages: Stages) -> None:
    url = stages.gateway.url.replace("http", "ws") + "/v1"
    async with (
        openai.AsyncOpenAI(api_key=API_KEY, websocket_base_url=url) as made,
        made.beta.realtime.connect(model=INSTRUCT.name) as connection,
    ):
        client = Client(connection)
        session = {"instructions": SCRIPT, "tools": [WEATHER]}
        await client.ask("session.update", "session.updated", session=session)
        await hold(client, "response.audio.delta")
