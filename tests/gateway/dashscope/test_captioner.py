"""The captioner by DashScope's name, as the vendor's samples ask it: through its own client, and through OpenAI's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
import pytest_asyncio
from dashscope import MultiModalConversation

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, CAPTIONER
from tests.gateway.scripted.stages import Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
NAME = "qwen3-omni-30b-a3b-captioner"
SOUND = "https://example.org/a.wav"


@pytest_asyncio.fixture(loop_scope="module")
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, workers=1, captioner=True) as running:
        yield running
        await wait_until(running.clean)


async def native(stages: Stages, **fields: Any) -> Any:
    messages = [{"role": "user", "content": [{"audio": SOUND}]}]
    base = f"{stages.gateway.url}/api/v1"
    asked: dict[str, Any] = {"model": NAME, "messages": messages, **fields}
    called: Any = await asyncio.to_thread(MultiModalConversation.call, api_key=API_KEY, base_address=base, **asked)
    return await asyncio.to_thread(list, called) if fields.get("stream") else called


async def test_the_captioner_is_found_by_dashscopes_name(stages: Stages) -> None:
    whole = await native(stages)
    assert whole.output.choices[0].message.content[0]["text"] == stages.story.text
    pieces = await native(stages, stream=True)
    assert "".join(each.output.choices[0].message.content[0]["text"] for each in pieces) == stages.story.text

    base = f"{stages.gateway.url}/compatible-mode/v1"
    async with openai.AsyncOpenAI(base_url=base, api_key=API_KEY, max_retries=0) as client:
        part: Any = {"type": "input_audio", "input_audio": {"data": SOUND}}
        answer = await client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": [part]}])
        assert (answer.model, answer.choices[0].message.content) == (CAPTIONER.name, stages.story.text)
        with pytest.raises(openai.BadRequestError, match="exactly one audio and no text"):
            await client.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "What is it?"}])

    sounds = [part for call in stages.calls("preprocess") for message in call.messages for part in message.parts]
    assert [sound.audio.source.url for sound in sounds] == [SOUND] * 3
