"""Conversations with new media in every turn, through all processes, with OpenAI's client."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from tests.e2e.media import audio_part, image_part, photograph_png, tone_wav
from tests.fixtures.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="module")
TURNS = 5


@pytest.mark.parametrize("kind", ["spoken", "photo"])
async def test_a_conversation_with_media_in_each_of_five_turns(stack: Stack, kind: str) -> None:
    messages: list[Any] = []
    async with openai.AsyncOpenAI(base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0) as client:
        for turn in range(TURNS):
            part = audio_part(tone_wav(0.5 + turn / 10)) if kind == "spoken" else image_part(photograph_png())
            messages.append({"role": "user", "content": [part]})
            answer = await client.chat.completions.create(
                model=stack.model, messages=messages, temperature=0, max_tokens=4
            )
            assert answer.usage is not None
            assert answer.usage.completion_tokens
            messages.append({"role": "assistant", "content": answer.choices[0].message.content or "Yes."})
    assert len(messages) == 2 * TURNS
