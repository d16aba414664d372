"""Tools and forms of answers, as Converse has them, read as chat reads its own."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from antiphon.v1 import gateway_pb2, thinker_pb2
from services.common.errors import BadInput
from services.gateway.http.chat.structure.schema import (
    MAX_CHOICES,
    MAX_GRAMMAR_CHARS,
    MAX_PATTERN_CHARS,
    AnyJson,
    ResponseFormat,
    SchemaJson,
)
from services.gateway.http.chat.structure.translate import AskedForm, FormNames, asked_form
from services.gateway.http.chat.tools.schema import MAX_TOOLS, NamedTool, Tool, ToolChoice
from services.gateway.turn.structure import Choices, Grammar, Regex, Structure

_NAMES = FormNames(
    parameters="parameters_schema", response_format="structure.json_object", schema="structure.json_schema"
)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a ConverseStart says about the form of its answer; see AsksForm."""

    tools: Sequence[Tool]
    tool_choice: ToolChoice | None
    parallel_tool_calls: bool | None
    response_format: ResponseFormat | None
    structured_outputs: None = None

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"


def form_of(start: gateway_pb2.ConverseStart) -> AskedForm:
    """Return the form of the answer, and the tools. Raise BadInput; call it off the event loop."""
    tools = _tools(start)
    other = _other_form(start.structure)
    if other is not None and tools:
        raise BadInput("Beside tools a structure is JSON. Leave one of them out.", param="structure")
    asked = asked_form(
        _Asked(
            tools=tools,
            tool_choice=_choice(start, tools),
            parallel_tool_calls=False if start.one_call else None,
            response_format=_json_form(start.structure),
        ),
        _NAMES,
    )
    return asked if other is None else replace(asked, structure=other)


def _tools(start: gateway_pb2.ConverseStart) -> list[Tool]:
    if len(start.tools) > MAX_TOOLS:
        raise BadInput(f"There are too many tools. Send at most {MAX_TOOLS}.", param="tools")
    tools = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(start.tools)]
    if len({tool.function.name for tool in tools}) < len(tools):
        raise BadInput("Two tools have the same name. Name each differently.", param="tools")
    return tools


def _tool(tool: gateway_pb2.Tool, path: str) -> Tool:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    if tool.parameters_schema:
        function["parameters"] = _json_object(tool.parameters_schema, f"{path}.parameters_schema")
    shown = {"type": "function", "function": function}
    try:
        return Tool.model_validate({**shown, "function": {**function, "strict": tool.strict}}).model_copy(
            update={"written": shown}
        )
    except ValidationError:
        raise BadInput(
            f"Invalid '{path}.name': send 1 to 64 letters, digits, dots, underscores or hyphens.", param=f"{path}.name"
        ) from None


def _choice(start: gateway_pb2.ConverseStart, tools: Sequence[Tool]) -> ToolChoice | None:
    if start.tool_name:
        if start.tool_name not in {tool.function.name for tool in tools}:
            raise BadInput("tool_name is not among the tools. Name one of them.", param="tool_name")
        return NamedTool.model_validate({"type": "function", "function": {"name": start.tool_name}})
    match start.tool_choice:
        case gateway_pb2.TOOL_CHOICE_NONE:
            return "none"
        case gateway_pb2.TOOL_CHOICE_REQUIRED if tools:
            return "required"
        case gateway_pb2.TOOL_CHOICE_REQUIRED:
            raise BadInput("There is no tool to call. Send tools, or leave tool_choice out.", param="tool_choice")
        case _:
            return None


def _json_form(structure: thinker_pb2.Structure) -> ResponseFormat | None:
    match structure.WhichOneof("form"):
        case "json_schema":
            schema = _json_object(structure.json_schema, "structure.json_schema")
            named = {"name": "answer", "schema": schema}
            return SchemaJson.model_validate({"type": "json_schema", "json_schema": named})
        case "json_object":
            return AnyJson(type="json_object")
        case "tool_calls":
            raise BadInput("Converse makes tool_calls of the tools. Send tools.", param="structure.tool_calls")
        case _:
            return None


def _other_form(structure: thinker_pb2.Structure) -> Structure | None:
    match structure.WhichOneof("form"):
        case "regex":
            form = Regex(_short(structure.regex, MAX_PATTERN_CHARS, "structure.regex"))
            return Structure("structure.regex", form)
        case "grammar":
            form = Grammar(_short(structure.grammar, MAX_GRAMMAR_CHARS, "structure.grammar"))
            return Structure("structure.grammar", form)
        case "choices":
            texts = tuple(structure.choices.texts)
            if not 0 < len(texts) <= MAX_CHOICES or not all(texts):
                path = "structure.choices"
                raise BadInput(f"Invalid '{path}': send 1 to {MAX_CHOICES} texts, none of them empty.", param=path)
            return Structure("structure.choices", Choices(texts))
        case _:
            return None


def _short(text: str, most: int, path: str) -> str:
    if not 0 < len(text) <= most:
        raise BadInput(f"Invalid '{path}': send 1 to {most} characters.", param=path)
    return text


def _json_object(text: str, path: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise BadInput(f"Invalid '{path}': it is not the text of a JSON object. Send a JSON Schema.", param=path)
    return parsed
