"""The fields of a chat request that are about tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator
from pydantic.json_schema import SkipJsonSchema

from services.gateway.http.chat.parts import Lenient, Strict

MAX_TOOLS = 128
# Of one answer in the history.
MAX_CALLS = 128

FunctionName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


class Function(Lenient):
    name: FunctionName
    description: str | None = None
    # A JSON Schema.
    parameters: dict[str, Any] | None = None
    # The arguments always follow the schema, also where the model is free to call.
    strict: bool | None = None


class Tool(Lenient):
    type: Literal["function"]
    function: Function
    # The whole tool, as the client wrote it: the chat template shows it to the model.
    written: SkipJsonSchema[dict[str, Any]] = Field(default_factory=dict[str, Any], exclude=True)

    @model_validator(mode="before")
    @classmethod
    def keep_what_was_written(cls, value: Any) -> Any:
        return {**value, "written": value} if isinstance(value, Mapping) else value


class NamedFunction(Lenient):
    name: FunctionName


class NamedTool(Strict):
    type: Literal["function"]
    function: NamedFunction


def _is_named(value: Any) -> str:
    return "mode" if isinstance(value, str) else "tool"


ToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")] | Annotated[NamedTool, Tag("tool")],
    Discriminator(_is_named),
]


class PastFunction(Lenient):
    name: FunctionName
    # The text of a JSON object; "" = no arguments.
    arguments: str


class PastToolCall(Lenient):
    """A call in an answer that is sent back as history."""

    id: Annotated[str, Field(max_length=256)]
    # Clients that join a stream may lose it.
    type: Literal["function"] | None = None
    function: PastFunction
