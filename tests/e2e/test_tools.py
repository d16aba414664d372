"""Tools, structured answers, log probabilities and choices through all processes, with OpenAI's client."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from typing import Any

import jsonschema
import openai
import pytest
import pytest_asyncio
from pydantic import BaseModel, Field

from bench.random_schemas import random_schema
from tests.e2e.media import audio_part, text_part, tone_wav
from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S

pytestmark = pytest.mark.asyncio(loop_scope="module")
SEEDED: dict[str, Any] = {"temperature": 1.0, "seed": 3, "max_tokens": 1500}
HELLO: list[Any] = [{"role": "user", "content": "Say something."}]
SPEECH: dict[str, Any] = {"modalities": ["text", "audio"], "audio": {"voice": "ethan", "format": "wav"}}
ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rom"]}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER: dict[str, Any] = {"type": "function", "function": {"name": "weather", "parameters": ARGUMENTS}}
DOOR: dict[str, Any] = {
    "type": "function",
    "function": {"name": "door", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}


class Animal(BaseModel):
    name: str = Field(max_length=12)
    legs: int = Field(ge=0, le=8)
    tame: bool


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def client(stack: Stack) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(
        base_url=stack.url + "/v1", api_key=stack.api_key, max_retries=0, timeout=HANGS_AFTER_S
    ) as made:
        yield made


async def test_required_calls_come_streamed_and_whole(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, "tools": [WEATHER, DOOR], **SEEDED}
    ask |= {"tool_choice": "required", "parallel_tool_calls": False}
    whole = (await client.chat.completions.create(**ask)).choices[0]
    assert whole.finish_reason == "tool_calls"
    (call,) = whole.message.tool_calls or []
    assert call.type == "function"
    schema = {"weather": ARGUMENTS, "door": DOOR["function"]["parameters"]}[call.function.name]
    jsonschema.validate(json.loads(call.function.arguments), schema)
    async with client.chat.completions.stream(**ask) as stream:
        streamed = (await stream.get_final_completion()).choices[0]
    (again,) = streamed.message.tool_calls or []
    assert (again.function.name, again.function.arguments) == (call.function.name, call.function.arguments)
    assert streamed.finish_reason == "tool_calls"


async def test_a_named_function_is_called_and_its_result_read(stack: Stack, client: openai.AsyncOpenAI) -> None:
    named: Any = {"type": "function", "function": {"name": "weather"}}
    ask: dict[str, Any] = {"model": stack.model, "tools": [WEATHER, DOOR], **SEEDED}
    first = await client.chat.completions.create(messages=HELLO, tool_choice=named, **ask)
    message = first.choices[0].message
    (call,) = message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "weather"
    history: list[Any] = [*HELLO, message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
    ask["max_tokens"] = 8
    second = await client.chat.completions.create(messages=history, tool_choice="auto", **ask)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens
    sound = audio_part(tone_wav(1.0))
    history[-1] = {"role": "tool", "tool_call_id": call.id, "content": [sound, text_part("it sounds so")]}
    heard = await client.chat.completions.create(messages=history, **ask)
    assert heard.usage is not None
    assert (heard.usage.prompt_tokens_details.audio_tokens or 0) > 0  # type: ignore[union-attr]


async def test_a_required_call_is_not_spoken(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, "tools": [DOOR], "tool_choice": "required"}
    message = (await client.chat.completions.create(**ask, **SEEDED, **SPEECH)).choices[0].message
    assert message.tool_calls
    assert message.audio is not None
    assert message.audio.transcript == ""


async def test_openais_parse_gets_its_model(stack: Stack, client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model=stack.model, messages=HELLO, response_format=Animal, temperature=1.0, seed=4, max_tokens=1500
    )
    assert isinstance(answer.choices[0].message.parsed, Animal)


@pytest.mark.parametrize("seed", range(6))
async def test_random_schemas_are_followed(seed: int, stack: Stack, client: openai.AsyncOpenAI) -> None:
    schema = random_schema(seed)
    named: dict[str, Any] = {"name": "s", "schema": schema, "strict": True}
    form: Any = {"type": "json_schema", "json_schema": named}
    answer = await client.chat.completions.create(model=stack.model, messages=HELLO, response_format=form, **SEEDED)
    assert answer.choices[0].finish_reason == "stop"
    jsonschema.validate(json.loads(answer.choices[0].message.content or ""), schema)


@pytest.mark.parametrize(
    ("form", "pattern"),
    [
        ({"regex": "[a-z]{2,6}-[0-9]{2}"}, "[a-z]{2,6}-[0-9]{2}"),
        ({"choice": ["left", "right"]}, "left|right"),
        ({"grammar": 'root ::= [ab]{3} "."'}, r"[ab]{3}\."),
    ],
)
async def test_vllms_structured_outputs_are_served(
    form: dict[str, Any], pattern: str, stack: Stack, client: openai.AsyncOpenAI
) -> None:
    answer = await client.chat.completions.create(
        model=stack.model, messages=HELLO, extra_body={"structured_outputs": form}, **SEEDED
    )
    assert re.fullmatch(pattern, answer.choices[0].message.content or "")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"structured_outputs": {"regex": "a("}}, "structured_outputs.regex"),
        ({"structured_outputs": {"json": {"type": "nothing"}}}, "structured_outputs.json.type"),
        ({"tools": [DOOR], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"n": 5}, "n"),
    ],
)
async def test_a_wrong_request_is_refused_by_name(
    body: dict[str, Any], param: str, stack: Stack, client: openai.AsyncOpenAI
) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        await client.chat.completions.create(model=stack.model, messages=HELLO, extra_body=body)
    assert refused.value.param == param


async def test_log_probabilities_and_the_stop_string(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, "temperature": 0, "max_tokens": 12}
    plain = (await client.chat.completions.create(**ask)).choices[0].message.content or ""
    answer = await client.chat.completions.create(**ask, logprobs=True, top_logprobs=3, stop=plain[5:8])
    (choice,) = answer.choices
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []
    assert answer.usage is not None
    assert len(tokens) == answer.usage.completion_tokens
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token for token in tokens)
    assert all(token.logprob <= 0 for token in tokens)
    assert choice.model_dump()["stop_reason"] == plain[5:8]
    assert choice.message.content == plain[: plain.index(plain[5:8])]


async def test_choices_have_seeds_that_follow_each_other(stack: Stack, client: openai.AsyncOpenAI) -> None:
    ask: dict[str, Any] = {"model": stack.model, "messages": HELLO, "temperature": 1.0, "max_tokens": 10}
    several = await client.chat.completions.create(**ask, seed=3, n=3)
    alone = [await client.chat.completions.create(**ask, seed=3 + index) for index in range(3)]
    assert [choice.message.content for choice in several.choices] == [
        answer.choices[0].message.content for answer in alone
    ]
    assert several.usage is not None
    assert several.usage.completion_tokens == sum(answer.usage.completion_tokens for answer in alone if answer.usage)
    assert alone[0].usage is not None
    assert several.usage.prompt_tokens == alone[0].usage.prompt_tokens
