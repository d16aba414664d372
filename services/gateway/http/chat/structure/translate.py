"""From a request to the form that its answer must have, and to the tools that it may call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from services.common.errors import BadInput
from services.gateway.http.chat.structure.json_schema import schema_text
from services.gateway.http.chat.structure.schema import AnyJson, ResponseFormat, SchemaJson, StructuredOutputs
from services.gateway.http.chat.tools.schema import NamedTool, Tool, ToolChoice
from services.gateway.turn.structure import (
    Choices,
    Grammar,
    JsonObject,
    JsonSchema,
    Regex,
    Structure,
    StructureForm,
    ToolCalls,
    ToolSignature,
)

ANY_OBJECT = '{"type": "object"}'


@dataclass(frozen=True, slots=True)
class AskedForm:
    """`tools`: their text for the chat template; "" = none. `tool_names`: those that may be called."""

    structure: Structure | None = None
    tools: str = ""
    tool_names: frozenset[str] = frozenset()


class AsksForm(Protocol):
    """What a request says about the form of its answer; see ChatRequest."""

    @property
    def tools(self) -> Sequence[Tool] | None: ...
    @property
    def tool_choice(self) -> ToolChoice | None: ...
    @property
    def parallel_tool_calls(self) -> bool | None: ...
    @property
    def may_call_tools(self) -> bool: ...
    @property
    def response_format(self) -> ResponseFormat | None: ...
    @property
    def structured_outputs(self) -> StructuredOutputs | None: ...


@dataclass(frozen=True, slots=True)
class FormNames:
    """What a request calls these fields. `parameters` is below a tool."""

    tools: str = "tools"
    parameters: str = "function.parameters"
    response_format: str = "response_format"
    schema: str = "response_format.json_schema.schema"


_CHAT = FormNames()


def asked_form(asked: AsksForm, names: FormNames = _CHAT) -> AskedForm:
    """Return the form of the answer. Raise BadInput for a schema that is none; call it off the event loop."""
    if not asked.may_call_tools:
        return AskedForm(_structure(asked, names))
    tools = asked.tools or []
    written = json.dumps([tool.written for tool in tools], ensure_ascii=False)
    signatures = {
        tool.function.name: _signature(
            tool.function.parameters, tool.function.name, f"{names.tools}[{i}].{names.parameters}"
        )
        for i, tool in enumerate(tools)
    }
    choice = asked.tool_choice
    if isinstance(choice, NamedTool):
        signatures = {choice.function.name: signatures[choice.function.name]}
    return AskedForm(_tool_calls(asked, names, signatures), written, frozenset(signatures))


def _tool_calls(asked: AsksForm, names: FormNames, signatures: Mapping[str, ToolSignature]) -> Structure | None:
    """Return the form of an answer in which calls have to follow their schemas; None = the model is free."""
    required = asked.tool_choice == "required" or isinstance(asked.tool_choice, NamedTool)
    is_strict = any(tool.function.strict for tool in asked.tools or ())
    at_most_one = asked.parallel_tool_calls is False or isinstance(asked.tool_choice, NamedTool)
    other = _structure(asked, names)
    path, or_schema = names.tools, ""
    if other is not None and not required:
        path, or_schema = other.path, other.form.schema if isinstance(other.form, JsonSchema) else ANY_OBJECT
    elif not (required or is_strict or at_most_one):
        return None
    calls = ToolCalls(tuple(signatures.values()), required=required, at_most_one=at_most_one, or_schema=or_schema)
    return Structure(path, calls)


def _signature(parameters: dict[str, Any] | None, name: str, path: str) -> ToolSignature:
    if not parameters:
        return ToolSignature(name)
    text = schema_text(parameters, path)
    if parameters.get("type", "object") != "object":
        raise BadInput(f"Invalid '{path}.type': arguments are an object. Send \"object\".", param=f"{path}.type")
    return ToolSignature(name, text)


def _structure(asked: AsksForm, names: FormNames) -> Structure | None:
    match asked.response_format:
        case AnyJson():
            return Structure(names.response_format, JsonObject())
        case SchemaJson():
            path = names.schema
            return Structure(path, JsonSchema(schema_text(asked.response_format.json_schema.json_schema, path)))
        case _:
            outputs = asked.structured_outputs
    if outputs is None:
        return None
    path = f"structured_outputs.{outputs.forms[0]}"
    return Structure(path, _form(outputs, path))


def _form(outputs: StructuredOutputs, path: str) -> StructureForm:
    if outputs.json_schema is not None:
        return JsonSchema(schema_text(_parsed(outputs.json_schema, path), path))
    if outputs.regex is not None:
        return Regex(outputs.regex)
    if outputs.choice is not None:
        return Choices(tuple(outputs.choice))
    if outputs.grammar is not None:
        return Grammar(outputs.grammar)
    return JsonObject()


def _parsed(schema: dict[str, Any] | str, path: str) -> dict[str, Any]:
    if isinstance(schema, dict):
        return schema
    try:
        parsed = json.loads(schema)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise BadInput(f"Invalid '{path}': it is not the text of a JSON object. Send a JSON Schema.", param=path)
    return parsed
