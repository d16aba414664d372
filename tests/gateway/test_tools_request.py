"""Requests with tools, structured answers and log probabilities: what is read, and what is refused by its name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from services.common.errors import BadInput
from services.gateway.http.chat.structure.json_schema import MAX_BYTES, MAX_NESTING, MAX_VALUES
from services.gateway.http.chat.structure.translate import AskedForm, asked_form
from services.gateway.http.chat.translate import check_past_calls, messages_from, sampling_from
from services.gateway.inline_media import InlineMedia
from services.gateway.turn.conversation import Message, TextPart, ToolCall
from services.gateway.turn.structure import (
    Choices,
    Grammar,
    JsonObject,
    JsonSchema,
    Regex,
    StructureForm,
    ToolCalls,
    ToolSignature,
)
from tests.gateway.test_chat_request import USER, parse, refused

TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "string"}}}


def formatted(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": schema}}


def asked(**fields: Any) -> AskedForm:
    return asked_form(parse(**fields))


@pytest.mark.parametrize(
    ("fields", "path", "form"),
    [
        ({"response_format": {"type": "json_object"}}, "response_format", JsonObject()),
        ({"response_format": formatted(SCHEMA)}, "response_format.json_schema.schema", JsonSchema(json.dumps(SCHEMA))),
        ({"structured_outputs": {"json": SCHEMA}}, "structured_outputs.json", JsonSchema(json.dumps(SCHEMA))),
        (
            {"structured_outputs": {"json": json.dumps(SCHEMA)}},
            "structured_outputs.json",
            JsonSchema(json.dumps(SCHEMA)),
        ),
        ({"structured_outputs": {"json_object": True}}, "structured_outputs.json_object", JsonObject()),
        ({"structured_outputs": {"regex": "a+"}}, "structured_outputs.regex", Regex("a+")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, "structured_outputs.choice", Choices(("a", "b"))),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, "structured_outputs.grammar", Grammar('root ::= "a"')),
    ],
)
def test_each_form_of_an_answer_is_read(fields: dict[str, Any], path: str, form: StructureForm) -> None:
    structure = asked(**fields).structure
    assert structure is not None
    assert (structure.path, structure.form) == (path, form)


def test_an_answer_may_be_calls_or_json() -> None:
    both = asked(tools=[TOOL], response_format=formatted(SCHEMA)).structure
    assert both is not None
    assert both.path == "response_format.json_schema.schema"
    assert both.form == ToolCalls(
        (ToolSignature("f", '{"type": "object"}'),), required=False, at_most_one=False, or_schema=json.dumps(SCHEMA)
    )
    calls = asked(tools=[TOOL], response_format={"type": "json_object"}, tool_choice="required").structure
    assert calls is not None
    assert isinstance(calls.form, ToolCalls)
    assert (calls.form.required, calls.form.or_schema) == (True, "")


@pytest.mark.parametrize("fields", [{}, {"response_format": {"type": "text"}}, {"tools": []}, {"tool_choice": "auto"}])
def test_a_request_may_ask_for_no_form(fields: dict[str, Any]) -> None:
    assert asked(**fields) == AskedForm()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0].function.name", "invalid_value"),
        ({"tools": [TOOL, TOOL]}, "tools", "invalid_value"),
        ({"tools": [TOOL] * 129}, "tools", "invalid_value"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "always"}, "tool_choice", "invalid_value"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "g"}}},
            "tool_choice",
            "invalid_value",
        ),
        ({"tools": [TOOL], "structured_outputs": {"regex": "a"}}, "structured_outputs", "invalid_value"),
        ({"tools": [TOOL], "tool_choice": "required", "ignore_eos": True}, "ignore_eos", "invalid_value"),
        ({"response_format": {"type": "json_object"}, "min_tokens": 3}, "min_tokens", "invalid_value"),
        ({"structured_outputs": {"regex": "a"}, "stop_token_ids": [3]}, "stop_token_ids", "invalid_value"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "missing_required_parameter"),
        ({"structured_outputs": {}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "invalid_value"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "unknown_parameter"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "invalid_value"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "invalid_value",
        ),
        ({"top_logprobs": 3}, "top_logprobs", "invalid_value"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"logprobs": 5}, "logprobs", "invalid_type"),
    ],
)
def test_a_wrong_request_names_its_field(fields: dict[str, Any], param: str, code: str) -> None:
    error = refused(**fields)
    assert (error.param, error.code) == (param, code)


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"type": "strin"}, ".type"),
        ({"properties": {"a": {"minLength": "3"}}}, ".properties.a.minLength"),
        ({"anyOf": [{"type": "string"}, 5]}, ".anyOf[1]"),
        ({"properties": {str(n): {} for n in range(MAX_VALUES + 1)}}, ""),
        ({"description": "x" * MAX_BYTES}, ""),
    ],
)
def test_a_wrong_schema_is_refused_where_it_is_wrong(schema: dict[str, Any], place: str) -> None:
    for fields, path in (
        ({"response_format": formatted(schema)}, "response_format.json_schema.schema"),
        ({"structured_outputs": {"json": schema}}, "structured_outputs.json"),
        (
            {"tools": [TOOL, {"type": "function", "function": {"name": "g", "parameters": schema}}]},
            "tools[1].function.parameters",
        ),
    ):
        with pytest.raises(BadInput) as caught:
            asked(**fields)
        assert (caught.value.status, caught.value.param) == (400, path + place)


def test_a_schema_may_be_nested_so_deep() -> None:
    def nested(levels: int) -> dict[str, Any]:
        return {"not": nested(levels - 1)} if levels > 1 else {}

    asked(response_format=formatted(nested(MAX_NESTING)))
    with pytest.raises(BadInput):
        asked(response_format=formatted(nested(MAX_NESTING + 1)))


def test_arguments_are_an_object() -> None:
    with pytest.raises(BadInput) as caught:
        asked(tools=[{"type": "function", "function": {"name": "g", "parameters": {"type": "array"}}}])
    assert caught.value.param == "tools[0].function.parameters.type"


def test_calls_and_results_are_history() -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    chat = parse(
        messages=[
            USER,
            {"role": "assistant", "content": None, "tool_calls": [call], "refusal": None},
            {"role": "tool", "tool_call_id": "c1", "content": "3"},
        ]
    )
    messages = messages_from(chat, InlineMedia(10))
    assert messages[1].tool_calls == (ToolCall("messages[1].tool_calls[0]", "c1", "f", '{"a": 1}'),)
    assert messages[2] == Message("tool", [TextPart("messages[2].content", "3")], tool_call_id="c1")


@pytest.mark.parametrize("arguments", ["{", "[]", "3", "nonsense"])
def test_past_arguments_must_be_an_object(arguments: str) -> None:
    call = {"id": "c1", "function": {"name": "f", "arguments": arguments}}
    messages = messages_from(parse(messages=[{"role": "assistant", "tool_calls": [call]}]), InlineMedia(10))
    with pytest.raises(BadInput) as caught:
        check_past_calls(messages)
    assert caught.value.param == "messages[0].tool_calls[0].function.arguments"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5)],
)
def test_log_probabilities_are_asked_for(fields: dict[str, Any], expected: int | None) -> None:
    assert sampling_from(parse(**fields)).top_logprobs == expected
