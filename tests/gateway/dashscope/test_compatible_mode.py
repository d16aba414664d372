"""DashScope's compatible mode: the vendor's own ways of calling it, with OpenAI's client."""

from __future__ import annotations

import base64
from typing import Any

import openai
import pytest

from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.stages import Stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
# As the vendor's samples ask.
ASKED: dict[str, Any] = {
    "model": "qwen3-omni-flash",
    "messages": [{"role": "user", "content": "Who are you?"}],
    "modalities": ["text", "audio"],
    "audio": {"voice": "Cherry", "format": "wav"},
}


def client_of(stages: Stages, base: str = "/compatible-mode/v1") -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=stages.gateway.url + base, api_key=API_KEY, max_retries=0)


async def test_a_stream_has_its_text_and_its_speech_where_the_samples_read_them(stages: Stages) -> None:
    text, data, usage = "", "", None
    async with client_of(stages) as client:
        stream = await client.chat.completions.create(**ASKED, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                text += chunk.choices[0].delta.content
            audio = chunk.choices[0].model_dump(exclude_unset=True)["delta"].get("audio", {}) if chunk.choices else {}
            assert "transcript" not in audio
            data += audio.get("data", "")
            usage = chunk.usage or usage
    assert text == stages.story.text
    assert base64.b64decode(data) == stages.story.pcm
    assert usage is not None
    assert usage.completion_tokens_details is not None
    assert usage.completion_tokens_details.audio_tokens == stages.story.frames
    assert {call.voice for call in stages.calls("talker")} == {"chelsie"}


async def test_openais_own_path_keeps_its_form(stages: Stages) -> None:
    said = written = ""
    async with client_of(stages, "/v1") as client:
        async for chunk in await client.chat.completions.create(**ASKED, stream=True):
            written += chunk.choices[0].delta.content or ""
            said += chunk.choices[0].model_dump(exclude_unset=True)["delta"].get("audio", {}).get("transcript", "")
    assert (said, written) == (stages.story.text, "")


async def test_a_whole_answer_has_its_text_in_both_places(stages: Stages) -> None:
    async with client_of(stages) as client:
        answer = await client.chat.completions.create(**ASKED)
    message = answer.choices[0].message
    assert answer.model == INSTRUCT.name
    assert message.content == stages.story.text
    assert message.audio is not None
    assert message.audio.transcript == stages.story.text


async def test_an_answer_can_be_sent_back_as_its_stream_was_joined(stages: Stages) -> None:
    async with client_of(stages) as client:
        answer = await client.chat.completions.create(**ASKED)
        past: Any = {"role": "assistant", "content": answer.choices[0].message.content}
        again: dict[str, Any] = {**ASKED, "messages": [*ASKED["messages"], past, *ASKED["messages"]]}
        await client.chat.completions.create(**again)
    call = stages.calls("thinker")[-1]
    call = call if call.messages else stages.calls("preprocess")[-1]
    assert call.messages[1].parts[0].text == stages.story.text


async def test_a_model_is_found_by_its_alias(stages: Stages) -> None:
    async with client_of(stages) as client:
        assert (await client.models.retrieve("qwen3-omni-flash")).id == INSTRUCT.name
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("qwen3-omni-30b-a3b-captioner")  # none is served
