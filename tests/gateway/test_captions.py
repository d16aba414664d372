"""Captions: the endpoint, and the captioner through chat and DashScope's native form."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from dashscope import MultiModalConversation

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, CAPTIONER, INSTRUCT
from tests.gateway.scripted.stages import CHAT, HEARD, Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
CAPTIONS = "/v1/audio/captions"
SOUND = b"a sound"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, workers=1, captioner=True) as running:

        async def both_are_served() -> bool:
            listed = (await running.gateway.client.get("/v1/models")).json()["data"]
            return {model["id"] for model in listed} == {INSTRUCT.name, CAPTIONER.name}

        await wait_until(both_are_served)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)
    assert module_stages.gateway.gateway.memory.budget.holds == 0


async def post(stages: Stages, **fields: str) -> httpx.Response:
    return await stages.gateway.client.post(CAPTIONS, files={"file": ("a.wav", SOUND)}, data=fields)


def check_asked(stages: Stages) -> None:
    """Assert that the captioner's worker got one audio and no text."""
    (prepared,) = stages.calls("preprocess")
    (message,) = prepared.messages
    assert [part.WhichOneof("content") for part in message.parts] == ["audio"]
    assert stages.preprocess[-1].calls == [prepared]


@pytest.mark.parametrize("fields", [{}, {"model": CAPTIONER.name}, {"model": "qwen3-omni-30b-a3b-captioner"}])
async def test_a_caption(stages: Stages, fields: dict[str, str]) -> None:
    answer = await post(stages, **fields)
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"] == stages.story.text
    assert answer.json()["usage"]["output_tokens"] == len(stages.story.token_ids)
    check_asked(stages)
    (thought,) = stages.calls("thinker")
    assert not thought.sampling.HasField("temperature")  # the checkpoint's own


async def test_a_caption_as_plain_text_and_in_events(stages: Stages) -> None:
    answer = await post(stages, response_format="text", temperature="0.5", max_tokens="20")
    assert answer.text == stages.story.text
    (thought,) = stages.calls("thinker")
    assert (thought.sampling.temperature, thought.sampling.max_tokens) == (0.5, 20)
    answer = await post(stages, stream="true")
    events = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")]
    assert {event["type"] for event in events[:-1]} == {"caption.text.delta"}
    assert "".join(event["delta"] for event in events[:-1]) == stages.story.text
    assert (events[-1]["type"], events[-1]["text"]) == ("caption.text.done", stages.story.text)


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"model": INSTRUCT.name}, 400, "model"),
        ({"model": "qwen3-omni-flash"}, 400, "model"),
        ({"model": "unknown"}, 404, "model"),
        ({"prompt": "What is it?"}, 400, "prompt"),
        ({"language": "en"}, 400, "language"),
        ({"response_format": "srt"}, 400, "response_format"),
    ],
)
async def test_what_is_no_caption_is_refused(stages: Stages, fields: dict[str, str], status: int, param: str) -> None:
    answer = await post(stages, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


async def test_the_captioner_through_chat(stages: Stages) -> None:
    for path in (CHAT, "/compatible-mode" + CHAT):
        body = {"model": "qwen3-omni-30b-a3b-captioner", "messages": HEARD}
        answer = await stages.gateway.client.post(path, json=body)
        assert answer.json()["choices"][0]["message"]["content"] == stages.story.text
        assert answer.json()["model"] == CAPTIONER.name
        check_asked(stages)
        for worker in stages.workers:
            worker.calls.clear()


async def test_the_captioner_through_dashscopes_client(stages: Stages) -> None:
    asked: dict[str, Any] = {
        "model": "qwen3-omni-30b-a3b-captioner",
        "messages": [{"role": "user", "content": [{"audio": "https://example.org/noise.wav"}]}],
        "base_address": stages.gateway.url + "/api/v1",
        "api_key": API_KEY,
    }
    response: Any = await asyncio.to_thread(MultiModalConversation.call, **asked)
    assert response["output"]["choices"][0]["message"].content[0]["text"] == stages.story.text
    check_asked(stages)


async def test_lyrics_are_transcribed_with_their_own_prompt(stages: Stages) -> None:
    file: Any = {"files": {"file": ("a.wav", SOUND)}}
    data = {"model": INSTRUCT.name, "antiphon_preset": "lyrics"}
    answer = await stages.gateway.client.post("/v1/audio/transcriptions", **file, data=data)
    assert answer.status_code == 200, answer.text
    (prepared,) = stages.calls("preprocess")
    assert prepared.messages[0].parts[1].text.startswith("Transcribe the song lyrics into text")
    answer = await stages.gateway.client.post("/v1/audio/transcriptions", **file, data={**data, "prompt": "la"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
