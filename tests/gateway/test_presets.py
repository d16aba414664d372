"""Named presets: what the model reads of each, and where they have no place."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.http.presets.presets import PRESETS
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
NATIVE = "/api/v1/services/aigc/multimodal-generation/generation"
ASSISTANT = "You are Qwen-Omni, a smart voice assistant created by Alibaba Qwen."
TASKS = {
    "transcription": "Transcribe the audio into text.",
    "transcription-zh": "请将这段中文语音转换为纯文本。",
    "translation": "Listen to the provided speech and produce a translation in English text.",
    "lyrics": "Transcribe the song lyrics into text without any punctuation, separate lines with line breaks, and"
    " output only the lyrics without additional explanations.",
}


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)


async def post(stages: Stages, messages: list[Any], preset: Any) -> Any:
    body = {"model": INSTRUCT.name, "messages": messages, "antiphon_preset": preset}
    return await stages.gateway.client.post(CHAT, json=body)


def heard(stages: Stages) -> list[Any]:
    """Return the messages that the stages were given."""
    calls = [call for call in [*stages.calls("preprocess"), *stages.calls("thinker")] if call.messages]
    return list(calls[-1].messages)


@pytest.mark.parametrize("name", TASKS)
async def test_a_task_is_asked_of_the_media(stages: Stages, name: str) -> None:
    assert (await post(stages, HEARD, name)).status_code == 200
    (message,) = heard(stages)
    assert [part.WhichOneof("content") for part in message.parts] == ["audio", "text"]
    assert message.parts[1].text == TASKS[name]


async def test_a_translation_has_its_languages(stages: Stages) -> None:
    preset = {"name": "translation", "language": "de", "to_language": "fr"}
    assert (await post(stages, HEARD, preset)).status_code == 200
    assert heard(stages)[0].parts[1].text == (
        "Listen to the provided German speech and produce a translation in French text."
    )


async def test_the_voice_assistant_is_the_system_message(stages: Stages) -> None:
    assert (await post(stages, HELLO, "voice-assistant")).status_code == 200
    system, user = heard(stages)
    assert (system.role, user.role) == ("system", "user")
    text = system.parts[0].text
    assert text.startswith(f"{ASSISTANT} You are a virtual voice assistant with no gender or age.\n")
    assert text.endswith("as if talking face-to-face.")


async def test_the_clients_own_system_message_says_who_the_assistant_is(stages: Stages) -> None:
    own = {"role": "system", "content": "You are Ada, a librarian."}
    assert (await post(stages, [own, *HELLO], {"name": "voice-assistant"})).status_code == 200
    system, _ = heard(stages)
    assert system.parts[0].text.startswith("You are Ada, a librarian. You are a virtual voice assistant")
    assert ASSISTANT not in system.parts[0].text


@pytest.mark.parametrize(
    ("messages", "preset", "told"),
    [
        (HELLO, "lyrics", "the last message holds none"),
        ([*HEARD, {"role": "assistant", "content": "x"}], "lyrics", "the last message holds none"),
        (
            [{"role": "user", "content": [*HEARD[0]["content"], {"type": "text", "text": "what?"}]}],
            "transcription",
            "a text of its own",
        ),
        (HEARD, "nothing", "'voice-assistant'"),
        (HEARD, {"name": "lyrics", "language": "de"}, "has no 'language'"),
        (HEARD, {"name": "translation", "to_language": "xx"}, "Send one of: ar, de"),
        (HEARD, 5, "antiphon_preset"),
    ],
)
async def test_a_preset_without_a_place_is_refused(stages: Stages, messages: list[Any], preset: Any, told: str) -> None:
    answer = await post(stages, messages, preset)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["param"].startswith("antiphon_preset")
    assert told in error["message"]


async def test_dashscopes_form_has_them_too(stages: Stages) -> None:
    content = [{"audio": "data:audio/wav;base64,AAAA"}]
    body: dict[str, Any] = {"input": {"messages": [{"role": "user", "content": content}]}}
    answer = await stages.gateway.client.post(NATIVE, json={**body, "parameters": {"antiphon_preset": "lyrics"}})
    assert answer.status_code == 200
    assert heard(stages)[0].parts[1].text == TASKS["lyrics"]
    body["input"]["messages"][0]["content"] = "no media"
    answer = await stages.gateway.client.post(NATIVE, json={**body, "parameters": {"antiphon_preset": "lyrics"}})
    assert "'parameters.antiphon_preset'" in answer.json()["message"]


HEARD_ITEMS: list[dict[str, Any]] = [{"type": "message", "role": "user", "content": HEARD[0]["content"]}]


async def respond(stages: Stages, **body: Any) -> Any:
    return await stages.gateway.client.post("/v1/responses", json={"model": INSTRUCT.name, **body})


async def test_a_response_is_asked_for_a_task(stages: Stages) -> None:
    preset = {"name": "translation", "language": "de", "to_language": "fr"}
    answer = await respond(stages, input=HEARD_ITEMS, antiphon_preset=preset)
    assert answer.status_code == 200
    assert answer.json()["antiphon_preset"] == preset
    (message,) = heard(stages)
    assert [part.WhichOneof("content") for part in message.parts] == ["audio", "text"]
    assert message.parts[1].text == "Listen to the provided German speech and produce a translation in French text."


async def test_a_task_of_a_response_needs_a_message(stages: Stages) -> None:
    """Nothing is read of a thought without a summary."""
    thought = {"type": "reasoning", "id": "rs_1", "summary": []}
    answer = await respond(stages, input=[thought], antiphon_preset="lyrics")
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "input")


async def test_the_instructions_of_a_response_say_who_the_assistant_is(stages: Stages) -> None:
    asked = {"input": "hello", "instructions": "You are Ada, a librarian.", "antiphon_preset": "voice-assistant"}
    answer = await respond(stages, **asked)
    assert answer.json()["antiphon_preset"] == {"name": "voice-assistant"}
    system, _ = heard(stages)
    assert system.parts[0].text.startswith("You are Ada, a librarian. You are a virtual voice assistant")


async def test_a_preset_is_that_of_one_response(stages: Stages) -> None:
    """What is kept is what the client sent."""
    first = (await respond(stages, input=HEARD_ITEMS, antiphon_preset="lyrics")).json()
    assert (await respond(stages, input="And now?", previous_response_id=first["id"])).status_code == 200
    user, _, last = heard(stages)
    assert [part.WhichOneof("content") for part in user.parts] == ["audio"]
    assert last.parts[0].text == "And now?"
    kept = (await stages.gateway.client.get(f"/v1/responses/{first['id']}/input_items")).json()["data"]
    assert [part["type"] for part in kept[0]["content"]] == ["input_audio"]
    fails = await respond(stages, input="And now?", previous_response_id=first["id"], antiphon_preset="lyrics")
    error = fails.json()["error"]
    assert (fails.status_code, error["param"]) == (400, "antiphon_preset")
    assert "the last message holds none" in error["message"]


async def test_all_presets_are_listed(stages: Stages) -> None:
    listed = (await stages.gateway.client.get("/v1/presets")).json()["data"]
    assert [preset["id"] for preset in listed] == list(PRESETS)
    texts = {preset["id"]: preset["text"] for preset in listed if preset["kind"] == "task"}
    assert texts == TASKS
    assert [preset["parameters"] for preset in listed if preset["id"] == "translation"] == [["language", "to_language"]]
