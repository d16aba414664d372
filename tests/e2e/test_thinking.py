"""A Thinking checkpoint over the public API: its chain of thought is a field of its own, it never speaks, and it
survives the loss of its engine."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from transformers import AutoTokenizer

from tests.e2e.asking import Asked, all_have, check_same, client_of, undisturbed
from tests.e2e.idle import Idle
from tests.e2e.workers import engine_of
from tests.fixtures.oracle import Oracle
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.parity.ask import converse, expected
from tests.parity.cases import EARLIER, HELLO, PICTURE, SPEECH, SYSTEM, Case, user

END_THINK = "</think>"
LONG = "[a-z ]{300}"
QUESTION: list[Any] = [{"role": "user", "content": "Think, then say something."}]
CASES = (
    Case("text", (SYSTEM, HELLO), voice=""),
    Case("media", (user(SPEECH, PICTURE, "Compare the two."),), voice=""),
    Case("two_turns_sampled", (*EARLIER, HELLO), voice="", temperature=0.8, top_k=20, seed=9),
)


@pytest.fixture(scope="module")
def client(stack_thinking: Stack) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=stack_thinking.url + "/v1", api_key=stack_thinking.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


@pytest.fixture(scope="module")
def thinking_oracle(tiny_thinking: Path) -> Oracle:
    return Oracle(tiny_thinking)


@pytest.fixture(scope="module")
def ask(stack_thinking: Stack, tiny_thinking: Path) -> dict[str, Any]:
    """Return a sampled answer with a finished chain of thought. A bias makes its end more likely."""
    end = AutoTokenizer.from_pretrained(tiny_thinking).convert_tokens_to_ids(END_THINK)
    extra = {"return_token_ids": True, "ignore_eos": True}
    fixed = {"temperature": 1, "seed": 4, "max_tokens": 40, "logit_bias": {str(end): 4}, "extra_body": extra}
    return {"model": stack_thinking.model, "messages": QUESTION, **fixed}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_thinking_answers_as_transformers_does(case: Case, stack_thinking: Stack, thinking_oracle: Oracle):
    got = await converse(stack_thinking.grpc_address, stack_thinking.api_key, stack_thinking.model, case)
    assert got.token_ids == expected(thinking_oracle, case).token_ids


def test_the_chain_of_thought_is_reasoning_content_and_the_rest_is_content(
    client: openai.OpenAI, ask: dict[str, Any], tiny_thinking: Path
):
    whole = client.chat.completions.create(**ask)
    choice = whole.model_dump()["choices"][0]
    tokenizer = AutoTokenizer.from_pretrained(tiny_thinking)
    ids: list[int] = choice["token_ids"]
    end = ids.index(tokenizer.convert_tokens_to_ids(END_THINK))
    thought, content = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[:end], ids[end + 1 :]))
    assert choice["message"]["reasoning_content"] == thought
    assert choice["message"]["content"] == content.removesuffix("\N{REPLACEMENT CHARACTER}")
    assert thought
    assert content
    assert whole.usage is not None
    assert whole.usage.completion_tokens == len(ids)
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == end + 1


def test_a_stream_equals_the_whole_answer(client: openai.OpenAI, ask: dict[str, Any]):
    message = client.chat.completions.create(**ask).model_dump()["choices"][0]["message"]
    deltas: list[dict[str, Any]] = []
    usage: Any = None
    with client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}) as stream:
        for chunk in stream:
            usage = chunk.usage or usage
            deltas += [choice["delta"] for choice in chunk.model_dump()["choices"]]
    thought = [delta for delta in deltas if delta.get("reasoning_content")]
    said = [delta for delta in deltas if delta.get("content")]
    assert "".join(delta["reasoning_content"] for delta in thought) == message["reasoning_content"]
    assert "".join(delta["content"] for delta in said) == message["content"]
    assert deltas.index(thought[-1]) <= deltas.index(said[0]), "all thought comes before what is said"
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens


async def test_a_thinking_model_is_never_asked_to_speak(
    client: openai.OpenAI, ask: dict[str, Any], stack_thinking: Stack
):
    with pytest.raises(openai.BadRequestError, match="answers with text only") as refused:
        client.chat.completions.create(**ask, modalities=["text", "audio"], audio={"voice": "ethan", "format": "wav"})
    assert refused.value.param == "modalities"
    assert "talker" not in stack_thinking.pids
    await wait_until(Idle(stack_thinking))


async def test_an_answer_survives_the_loss_of_its_engine_in_its_thought_and_in_its_content(
    stack_thinking: Stack, tiny_thinking: Path
):
    """With a stop string, min_tokens, a structure, penalties and a seed."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_thinking)
    end_think, end = (tokenizer.convert_tokens_to_ids(token) for token in (END_THINK, "<|im_end|>"))
    penalties = {"presence_penalty": -1.0, "frequency_penalty": 0.4, "repetition_penalty": 1.1}
    fixed = {"messages": QUESTION, "temperature": 1.0, "seed": 4, "logit_bias": {str(end_think): 4}, **penalties}
    async with client_of(stack_thinking) as client:

        def ask(max_tokens: int = 1000, **options: Any) -> Asked:
            return Asked(client, stack_thinking, max_tokens, **{**fixed, **options})

        # So long that none ends while others begin.
        free = await ask(700).whole()
        stopped_at: dict[str, Any] = {"stop": [free.text[-80:-40]]}
        ended_at: dict[str, Any] = {
            "ignore_eos": False,
            "min_tokens": 750,
            "logit_bias": {str(end_think): 4, str(end): 100},
        }
        structured: dict[str, Any] = {"ignore_eos": False, "structured_outputs": {"regex": LONG}}
        options = (stopped_at, ended_at, structured)
        stopped, ended, formed = await undisturbed([ask(**each) for each in options])
        assert (formed.reasoning, formed.finish_reason) == (free.reasoning, "stop")
        assert re.fullmatch(LONG, formed.text)
        assert (stopped.reasoning, stopped.finish_reason) == (free.reasoning, "stop")
        assert stopped.text == free.text[: free.text.index(stopped_at["stop"][0])]
        assert (len(ended.token_ids), ended.token_ids[-1]) == (751, end)
        thought = len(tokenizer.encode(stopped.reasoning))
        in_content = [ask(**each) for each in options]
        await all_have(in_content, thought + 20)
        in_thought = [ask(**each) for each in options]
        await all_have(in_thought, 1)
        assert not any(one.is_over for one in in_content)
        os.kill(engine_of(stack_thinking.pids["thinker"]), signal.SIGKILL)
        await check_same([*in_content, *in_thought], [stopped, ended, formed] * 2)
    await wait_until(Idle(stack_thinking))
