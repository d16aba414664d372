"""The body of POST /v1/responses: what the stack gets of it, and the error for anything else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.common.errors import BadInput
from services.gateway.http.chat.parse import read_request
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.structure.translate import asked_form
from services.gateway.http.chat.translate import messages_from
from services.gateway.http.json_body import parse_json
from services.gateway.http.responses.answer import asked_fields
from services.gateway.http.responses.endpoint import READING
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.http.responses.tools import NAMES
from services.gateway.http.responses.translate import Referred, check_calls, messages_in, pieces_from
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import (
    AudioPart,
    ImagePart,
    InlineSource,
    Message,
    UrlSource,
    VideoPart,
    join_calls,
)
from services.gateway.turn.structure import JsonObject, JsonSchema, ToolCalls

PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION: dict[str, Any] = {"name": "weather", "description": "of a city", "parameters": PARAMETERS}
TOOL: dict[str, Any] = {"type": "function", **FUNCTION}


def parse(**fields: Any) -> ResponseRequest:
    return parse_json(json.dumps({"input": "hello", **fields}).encode(), ResponseRequest)


def refused(**fields: Any) -> BadInput:
    with pytest.raises(BadInput) as caught:
        read(fields)
    return caught.value


def read(fields: dict[str, Any]) -> None:
    request = parse(**fields)
    check_calls(pieces_from(request, InlineMedia(1 << 20)))
    asked_form(request, NAMES)


def messages(items: Any) -> list[Message]:
    return join_calls(messages_in(pieces_from(parse(input=items), InlineMedia(1 << 20))))


def said(message: Message) -> tuple[str, list[Any], list[tuple[str, str, str]], str]:
    """Return what the model reads of a message."""
    texts = [getattr(part, "text", type(part)) for part in message.parts]
    calls = [(call.id, call.name, call.arguments) for call in message.tool_calls]
    return message.role, texts, calls, message.tool_call_id


def test_a_conversation_is_what_chat_makes_of_it() -> None:
    """The same one in both APIs: an answer's text and its calls are one message."""
    items = [
        {"role": "developer", "content": "Be brief."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {
            "type": "message",
            "id": "msg_1",
            "status": "completed",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see.", "annotations": [], "logprobs": []}],
        },
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": '{"city": "Oslo"}'},
        {"type": "function_call", "call_id": "c2", "name": "time", "arguments": "", "status": "completed"},
        {"type": "function_call_output", "call_id": "c1", "output": "Rain."},
        {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "Noon."}]},
        {"role": "assistant", "content": "Rain at noon."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
    ]
    chat = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me see."}],
            "tool_calls": [
                {"id": "c1", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}},
                {"id": "c2", "function": {"name": "time", "arguments": ""}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "Rain."},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "Noon."}]},
        {"role": "assistant", "content": "Rain at noon."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "No more."}]},
    ]
    of_chat = messages_from(parse_json(json.dumps({"messages": chat}).encode(), ChatRequest), InlineMedia(1 << 20))
    assert list(map(said, messages(items))) == list(map(said, of_chat))


def test_parts_name_their_place() -> None:
    inline = InlineMedia(1 << 20)
    parts = [
        {"type": "input_image", "image_url": "https://a.org/x.png", "detail": "auto", "max_pixels": 100},
        {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "video_url", "video_url": "https://a.org/x.mp4"},
    ]
    (message,) = messages_in(pieces_from(parse(input=[{"role": "user", "content": parts}]), inline))
    first, second, sound, film = message.parts
    assert first == ImagePart("input[0].content[0]", UrlSource("https://a.org/x.png"), max_pixels=100)
    assert second == ImagePart("input[0].content[1]", InlineSource(0, "image/png"))
    assert sound == AudioPart("input[0].content[2]", InlineSource(1, "wav"))
    assert isinstance(film, VideoPart)
    assert [media.param for media in inline.encoded] == [
        "input[0].content[1].image_url",
        "input[0].content[2].input_audio.data",
    ]


async def test_a_large_body_is_read_as_it_is() -> None:
    """Its long strings are drafted first: a call's arguments, cut, are no JSON any more."""
    arguments = json.dumps({"a": "é" * 20_000}, ensure_ascii=False)
    items = [
        {"role": "user", "content": "é" * 20_000},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": arguments},
    ]
    body = json.dumps({"input": items}, ensure_ascii=False).encode()
    request, pieces, _ = await read_request(body, READING, 1 << 20, 1 << 20)
    asked, answer = messages_in(pieces)
    assert said(asked) == ("user", ["é" * 20_000], [], "")
    assert said(answer) == ("assistant", [], [("c", "f", arguments)], "")
    assert request.text_chars == 20_000
    wrong = body.replace(b'"call_id": "c"', b'"call_id": 1')
    with pytest.raises(BadInput) as caught:
        await read_request(wrong, READING, 1 << 20, 1 << 20)
    assert caught.value.param == "input[1].call_id"


def test_a_reference_keeps_its_place() -> None:
    items = [{"type": "item_reference", "id": "msg_1"}, {"id": "fc_1"}, {"role": "user", "content": "x"}]
    first, second, message = pieces_from(parse(input=items), InlineMedia(1))
    assert (first, second) == (Referred("input[0].id", "msg_1"), Referred("input[1].id", "fc_1"))
    assert isinstance(message, Message)


def test_the_model_is_shown_tools_as_chat_shows_them() -> None:
    chat = parse_json(
        json.dumps(
            {"messages": [{"role": "user", "content": "x"}], "tools": [{"type": "function", "function": FUNCTION}]}
        ).encode(),
        ChatRequest,
    )
    asked = asked_form(parse(tools=[{**TOOL, "strict": None, "defer_loading": False}]), NAMES)
    assert asked == asked_form(chat)
    assert json.loads(asked.tools) == [{"type": "function", "function": FUNCTION}]


@pytest.mark.parametrize(
    ("fields", "required", "at_most_one"),
    [
        ({"tool_choice": "required"}, True, False),
        ({"tool_choice": {"type": "function", "name": "weather"}}, True, True),
        ({"tools": [{**TOOL, "strict": True}]}, False, False),
        ({"parallel_tool_calls": False}, False, True),
    ],
)
def test_calls_follow_their_schema_where_they_have_to(
    fields: dict[str, Any], required: bool, at_most_one: bool
) -> None:
    structure = asked_form(parse(**{"tools": [TOOL], **fields}), NAMES).structure
    assert structure is not None
    assert isinstance(structure.form, ToolCalls)
    assert (structure.form.required, structure.form.at_most_one) == (required, at_most_one)
    assert json.loads(structure.form.tools[0].parameters_schema) == PARAMETERS


def test_formats_are_structures() -> None:
    schema = {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True}
    structure = asked_form(parse(text={"format": schema, "verbosity": "medium"}), NAMES).structure
    assert structure is not None
    assert (structure.path, structure.form) == ("text.format.schema", JsonSchema(json.dumps(PARAMETERS)))
    structure = asked_form(parse(text={"format": {"type": "json_object"}}), NAMES).structure
    assert structure is not None
    assert (structure.path, structure.form) == ("text.format", JsonObject())
    assert asked_form(parse(text={"format": {"type": "text"}}), NAMES).structure is None


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"inputs": "x"}, "inputs", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": None}, "input", "invalid_value"),
        ({"input": {}}, "input", "invalid_type"),
        ({"background": True}, "background", "unsupported_parameter"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "p"}}, "prompt", "unsupported_parameter"),
        ({"modalities": ["text", "audio"]}, "modalities", "unsupported_parameter"),
        ({"truncation": "front"}, "truncation", "invalid_value"),
        ({"service_tier": "flex"}, "service_tier", "unsupported_parameter"),
        ({"cache_salt": "x"}, "cache_salt", "unsupported_parameter"),
        ({"text": {"verbosity": "low"}}, "text.verbosity", "unsupported_parameter"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "n"}}},
            "text.format.schema",
            "missing_required_parameter",
        ),
        (
            {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": 1}}}},
            "text.format.schema.type",
            "invalid_value",
        ),
        ({"reasoning": {"summary": "detailed"}}, "reasoning.summary", "unsupported_parameter"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort", "invalid_value"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "mcp", "server_label": "x"}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function"}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{**TOOL, "parameters": 1}]}, "tools[0].parameters", "invalid_type"),
        ({"tools": [{**TOOL, "parameters": {"type": "array"}}]}, "tools[0].parameters.type", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "function", "name": "x"}}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": {"type": "web_search"}}, "tool_choice.type", "invalid_value"),
        ({"metadata": {"a": 1}}, "metadata.a", "invalid_type"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"input": [{"role": "robot", "content": "x"}]}, "input[0].role", "invalid_value"),
        ({"input": [{"type": "web_search_call", "id": "x"}]}, "input[0].type", "invalid_value"),
        ({"input": [{"content": "x"}]}, "input[0].type", "missing_required_parameter"),
        ({"input": [{"role": "user", "content": 1}]}, "input[0].content", "invalid_type"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_file", "file_id": 5}]}]},
            "input[0].content[0].file_id",
            "invalid_type",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "file_id": "f", "image_url": "x"}]}]},
            "input[0].content[0]",
            "invalid_value",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image"}]}]},
            "input[0].content[0].image_url",
            "missing_required_parameter",
        ),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0].image_url",
            "invalid_value",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "f", "arguments": "[]"}]},
            "input[0].arguments",
            "invalid_value",
        ),
        (
            {"input": [{"type": "function_call", "name": "f", "arguments": "{}"}]},
            "input[0].call_id",
            "missing_required_parameter",
        ),
    ],
)
def test_what_is_not_served_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(**fields)
    assert (error.param, error.code) == (param, code)
    assert error.message


def test_a_hosted_tool_is_refused_by_its_name() -> None:
    assert "'web_search'" in refused(tools=[{"type": "web_search"}]).message


@pytest.mark.parametrize(
    "fields",
    [
        {"background": False, "truncation": "disabled", "service_tier": "auto", "modalities": ["text"]},
        {"include": ["reasoning.encrypted_content", "web_search_call.results"], "max_tool_calls": 3},
        {"reasoning": {"summary": "auto", "effort": None}, "text": {"format": None}},
        {"conversation": None, "prompt": None, "tools": [], "tool_choice": "auto", "stream_options": None},
        {"prompt_cache_retention": "24h", "stream_options": {"include_obfuscation": False}},
    ],
)
def test_what_asks_for_nothing_passes(fields: dict[str, Any]) -> None:
    asked = parse(**fields)
    assert (asked.thinks, asked.response_format, asked.may_call_tools) == (None, None, False)
    assert not asked.wants_logprobs


def test_a_response_repeats_its_request() -> None:
    fields: dict[str, Any] = {
        "instructions": "Be brief.",
        "max_output_tokens": 5,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_logprobs": 2,
        "user": "u",
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "store": False,
    }
    asked = parse(tools=[TOOL], tool_choice={"type": "function", "name": "weather"}, **fields)
    described = asked_fields(asked)
    assert {name: described[name] for name in fields} == fields
    assert described["tools"] == [{**TOOL, "strict": False}]
    assert described["tool_choice"] == {"type": "function", "name": "weather"}
    assert asked.wants_logprobs
    assert asked.sampling.temperature == 0.5
