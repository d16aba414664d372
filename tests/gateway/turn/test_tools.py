"""Turns whose answers call tools: what the workers are asked, what clients get, and what is spoken."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio
from openai.lib.streaming._deltas import accumulate_delta

from antiphon.v1 import common_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, scripted_stages
from tests.gateway.scripted.story import SaidStory

STORY = SaidStory(
    said=(
        *("Let ", "me ", "see.", "\n", "<tool_call>", '\n{"name": "weather", ', '"arguments": {"city"', ': "Oslo"}}\n'),
        *("</tool_call>", "\n", "<tool_call>", '\n{"name": "time", "arguments": {}}\n', "</tool_call>"),
    ),
    frames=8,
)
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time"}}
TOOLS = [WEATHER, TIME]
CALLS = [("weather", '{"city": "Oslo"}'), ("time", "{}")]


def card_of(story: SaidStory) -> common_pb2.ModelCard:
    card = common_pb2.ModelCard(structures_answers=True, tool_call_token_id=story.call_id)
    card.MergeFrom(INSTRUCT)
    return card


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, STORY, card=card_of(STORY)) as running:
        yield running
        await wait_until(running.clean)


async def streamed(stages: Stages, messages: list[Any] = HELLO, **fields: Any) -> tuple[dict[str, Any], str, list[Any]]:
    """Return the message as openai-python joins it, the finish reason, and all deltas."""
    message: dict[str, Any] = {}
    reason, deltas = "", []
    async for chunk in stages.chunks(messages, **fields):
        assert "error" not in chunk, chunk
        for choice in chunk["choices"]:
            deltas.append(choice["delta"])
            message = accumulate_delta(message, json.loads(json.dumps(choice["delta"])))  # type: ignore[assignment]
            reason = choice["finish_reason"] or reason
    return message, reason, deltas


async def whole(stages: Stages, messages: list[Any] = HELLO, **fields: Any) -> dict[str, Any]:
    body = {"model": INSTRUCT.name, "messages": messages, **fields}
    response = await stages.gateway.client.post(CHAT, json=body)
    return response.json()


def calls_of(message: dict[str, Any]) -> list[tuple[str, str]]:
    calls = message["tool_calls"]
    assert len({call["id"] for call in calls}) == len(calls)
    assert all(call["type"] == "function" and call["id"].startswith("call_") for call in calls)
    return [(call["function"]["name"], call["function"]["arguments"]) for call in calls]


async def test_calls_are_streamed_and_whole(stages: Stages) -> None:
    message, reason, deltas = await streamed(stages, tools=TOOLS)
    assert (message["content"], calls_of(message), reason) == ("Let me see.", CALLS, "tool_calls")
    choice = (await whole(stages, tools=TOOLS))["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert (choice["message"]["content"], calls_of(choice["message"])) == ("Let me see.", CALLS)
    first, *rest = [call for delta in deltas for call in delta.get("tool_calls", ()) if call["index"] == 0]
    assert (first["function"], set(first)) == (
        {"name": "weather", "arguments": ""},
        {"index", "id", "type", "function"},
    )
    assert len(rest) > 1
    assert all(set(call) == {"index", "function"} for call in rest)


async def test_the_tools_reach_the_template_as_they_were_written(stages: Stages) -> None:
    odd = {**WEATHER, "x": 1, "function": {**WEATHER["function"], "y": {"z": "é"}}}
    await streamed(stages, tools=[odd])
    (start,) = stages.calls("preprocess")
    assert json.loads(start.tools_json) == [odd]
    assert list(json.loads(start.tools_json)[0]) == list(odd)
    (call,) = stages.calls("thinker")
    assert not call.HasField("structure")


async def test_media_and_tools_go_through_preprocess(stages: Stages) -> None:
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    history = [
        {"role": "user", "content": "Play it."},
        {"role": "assistant", "tool_calls": [{"id": "c", "function": {"name": "time", "arguments": ""}}]},
        {"role": "tool", "tool_call_id": "c", "content": [sound, {"type": "text", "text": "played"}]},
    ]
    await streamed(stages, history, tools=TOOLS)
    (start,) = stages.calls("preprocess")
    assert json.loads(start.tools_json) == TOOLS
    (past,) = start.messages[1].tool_calls
    assert (past.id, past.name, past.arguments_json, past.path) == ("c", "time", "{}", "messages[1].tool_calls[0]")
    assert (start.messages[2].role, start.messages[2].tool_call_id, len(start.messages[2].parts)) == ("tool", "c", 2)
    (call,) = stages.calls("thinker")
    assert (call.tools_json, len(call.messages)) == ("", 0)


@pytest.mark.parametrize(
    ("fields", "names", "required", "at_most_one"),
    [
        ({"tool_choice": "required"}, ["weather", "time"], True, False),
        ({"tool_choice": "required", "parallel_tool_calls": False}, ["weather", "time"], True, True),
        ({"tool_choice": {"type": "function", "function": {"name": "time"}}}, ["time"], True, True),
        ({"parallel_tool_calls": False}, ["weather", "time"], False, True),
        ({"tools": [{"type": "function", "function": {"name": "time", "strict": True}}]}, ["time"], False, False),
    ],
)
async def test_what_a_call_must_be_is_the_answers_structure(
    stages: Stages, fields: dict[str, Any], names: list[str], required: bool, at_most_one: bool
) -> None:
    await streamed(stages, **{"tools": TOOLS, **fields})
    (call,) = stages.calls("thinker")
    asked = call.structure.tool_calls
    assert ([tool.name for tool in asked.tools], asked.required, asked.at_most_one) == (names, required, at_most_one)
    schemas = {tool.name: tool.parameters_schema for tool in asked.tools}
    assert json.loads(schemas.get("weather") or "{}") in ({}, WEATHER["function"]["parameters"])


async def test_without_a_choice_to_call_the_text_is_text(stages: Stages) -> None:
    message, reason, _ = await streamed(stages, tools=TOOLS, tool_choice="none")
    assert (message["content"], reason) == (STORY.text, "stop")
    assert "tool_calls" not in message
    (start,) = stages.calls("preprocess")
    assert start.tools_json == ""


async def test_a_call_of_an_unknown_tool_is_text(stages: Stages) -> None:
    message, reason, _ = await streamed(stages, tools=[TIME])
    assert message["content"] == "".join(STORY.said[:9])
    assert (calls_of(message), reason) == ([("time", "{}")], "tool_calls")


async def test_calls_are_not_spoken(stages: Stages) -> None:
    message, reason, _ = await streamed(stages, tools=TOOLS, **SPEECH)  # the talker asserts what it is told
    assert (calls_of(message), reason) == (CALLS, "tool_calls")
    assert message["audio"]["transcript"] == "Let me see."
    assert message["audio"]["codes"] == STORY.codes


async def test_a_call_goes_on_after_a_lost_thinker(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 8))
    message, reason, _ = await streamed(stages, tools=TOOLS, tool_choice="required")
    assert (message["content"], calls_of(message), reason) == ("Let me see.", CALLS, "tool_calls")
    first, second = sorted(stages.calls("thinker"), key=lambda call: len(call.generated_token_ids))
    assert (len(first.generated_token_ids), len(second.generated_token_ids)) == (0, 8)
    assert first.structure == second.structure
    assert second.structure.tool_calls.required


async def test_a_model_without_tools_refuses_them(store: RedisServer) -> None:
    async with scripted_stages(store.url, STORY) as plain:
        refused: list[tuple[dict[str, Any], str]] = [
            ({"tools": TOOLS}, "tools"),
            ({"logprobs": True}, "logprobs"),
            ({"response_format": {"type": "json_object"}}, "response_format"),
        ]
        for fields, param in refused:
            error = (await whole(plain, **fields))["error"]
            assert (error["param"], error["type"]) == (param, "invalid_request_error")
        assert plain.calls("thinker") == []
