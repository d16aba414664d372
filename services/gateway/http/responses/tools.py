"""Tools and forms of answers as the Responses API writes them, flat, read into the nested ones of chat."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, model_validator

from services.gateway.http.chat.structure.schema import AnyJson, NamedSchema, ResponseFormat, SchemaJson
from services.gateway.http.chat.structure.translate import FormNames
from services.gateway.http.chat.tools.schema import Function, NamedFunction, NamedTool, Tool, ToolChoice

NAMES = FormNames(parameters="parameters", response_format="text.format", schema="text.format.schema")

# What the chat template shows of a function, as chat's clients write one.
_SHOWN = ("name", "description", "parameters")


class FunctionTool(Tool):
    @model_validator(mode="before")
    @classmethod
    def keep_what_was_written(cls, value: Any) -> Any:
        if not isinstance(value, Mapping) or value.get("type") != "function":
            return value
        function = value.get("function")
        if not isinstance(function, Mapping):
            return value
        shown = {key: function[key] for key in _SHOWN if function.get(key) is not None}
        return {
            "type": "function",
            "function": {**shown, "strict": function.get("strict")},
            "written": {"type": "function", "function": shown},
        }


def _nested_tool(value: Any) -> Any:
    """Return a function as chat has it."""
    if not isinstance(value, Mapping) or value.get("type") != "function" or "function" in value:
        return value
    return {"type": "function", "function": value}


def _nested_choice(value: Any) -> Any:
    """Return the choice of a function as chat has it."""
    if not isinstance(value, Mapping) or value.get("type") != "function" or "name" not in value:
        return value
    return {"type": "function", "function": {"name": value["name"]}}


def _nested_format(value: Any) -> Any:
    """Return the form of an answer as chat has it."""
    if not isinstance(value, Mapping) or value.get("type") != "json_schema" or "json_schema" in value:
        return value
    return {"type": "json_schema", "json_schema": {key: value[key] for key in value if key != "type"}}


class WrittenTool(Function):
    """A function; other tools are refused by their type."""

    type: Literal["function"]


class WrittenChoice(NamedFunction):
    type: Literal["function"]


class WrittenSchema(NamedSchema):
    type: Literal["json_schema"]


# Each is described as it is written, flat; chat's nested form passes, too.
FlatTool = Annotated[FunctionTool, BeforeValidator(_nested_tool, json_schema_input_type=WrittenTool | Tool)]
FlatChoice = Annotated[ToolChoice, BeforeValidator(_nested_choice, json_schema_input_type=WrittenChoice | ToolChoice)]
FlatFormat = Annotated[
    ResponseFormat, BeforeValidator(_nested_format, json_schema_input_type=WrittenSchema | ResponseFormat)
]


def tool_object(tool: Tool) -> dict[str, Any]:
    function = tool.function
    return {
        "type": "function",
        "name": function.name,
        "description": function.description,
        "parameters": function.parameters,
        "strict": bool(function.strict),
    }


def choice_object(choice: ToolChoice | None) -> str | dict[str, Any]:
    if isinstance(choice, NamedTool):
        return {"type": "function", "name": choice.function.name}
    return choice or "auto"


def format_object(form: ResponseFormat | None) -> dict[str, Any]:
    match form:
        case AnyJson():
            return {"type": "json_object"}
        case SchemaJson():
            schema = form.json_schema
            return {
                "type": "json_schema",
                "name": schema.name or "schema",
                "description": schema.description,
                "schema": schema.json_schema,
                "strict": True,
            }
        case _:
            return {"type": "text"}
