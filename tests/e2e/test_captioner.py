"""A Captioner checkpoint over the public API: one audio in, its description out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.idle import Idle
from tests.e2e.media import audio_part, image_part, text_part
from tests.fixtures.oracle import Oracle
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.parity.ask import converse, expected
from tests.parity.cases import LONG_SPEECH, SPEECH, Case, user

CASES = (Case("caption", (user(SPEECH),), voice=""), Case("long_caption", (user(LONG_SPEECH),), voice=""))


@pytest.fixture(scope="module")
def client(stack_captioner: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=stack_captioner.url + "/v1", api_key=stack_captioner.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


@pytest.fixture(scope="module")
def captioner_oracle(tiny_captioner: Path) -> Oracle:
    return Oracle(tiny_captioner)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_the_caption_equals_transformers(case: Case, stack_captioner: Stack, captioner_oracle: Oracle):
    got = await converse(stack_captioner.grpc_address, stack_captioner.api_key, stack_captioner.model, case)
    assert got.token_ids == expected(captioner_oracle, case).token_ids


def test_one_audio_and_no_text_is_described(client: openai.OpenAI, stack_captioner: Stack):
    messages: Any = [{"role": "user", "content": [audio_part()]}]
    answer = client.chat.completions.create(model=stack_captioner.model, messages=messages, temperature=0, max_tokens=8)
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert (answer.usage.prompt_tokens_details.audio_tokens or 0) > 0


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([{"role": "user", "content": [audio_part(), text_part("What is this?")]}], id="text beside it"),
        pytest.param([{"role": "user", "content": "What is this?"}], id="text alone"),
        pytest.param([{"role": "user", "content": [image_part()]}], id="a picture"),
        pytest.param([{"role": "user", "content": [audio_part(), audio_part()]}], id="two audios"),
        pytest.param(
            [{"role": "system", "content": "Be short."}, {"role": "user", "content": [audio_part()]}],
            id="a system prompt",
        ),
    ],
)
async def test_anything_but_one_audio_is_refused(client: openai.OpenAI, stack_captioner: Stack, messages: list[Any]):
    with pytest.raises(openai.BadRequestError, match="takes exactly one audio and no text") as refused:
        client.chat.completions.create(model=stack_captioner.model, messages=messages)
    assert refused.value.param == "messages"
    await wait_until(Idle(stack_captioner))


def test_a_caption_is_never_spoken(client: openai.OpenAI, stack_captioner: Stack):
    messages: Any = [{"role": "user", "content": [audio_part()]}]
    with pytest.raises(openai.BadRequestError, match="answers with text only"):
        client.chat.completions.create(
            model=stack_captioner.model,
            messages=messages,
            modalities=["text", "audio"],
            audio={"voice": "ethan", "format": "wav"},
        )
