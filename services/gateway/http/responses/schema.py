"""The body of POST /v1/responses. Its fields are of three kinds, as chat's are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from services.gateway.http.chat.contradictions import in_tools
from services.gateway.http.chat.messages import Either, PlainText
from services.gateway.http.chat.neutral import neutral_properties, only
from services.gateway.http.chat.parts import Strict
from services.gateway.http.chat.sampling import SamplingFields
from services.gateway.http.chat.schema import Effort
from services.gateway.http.chat.structure.schema import ResponseFormat, StructuredOutputs
from services.gateway.http.chat.tools.schema import MAX_TOOLS
from services.gateway.http.presets.schema import PRESET_DESCRIPTION, PresetField
from services.gateway.http.responses.items import CallOutput, Item, ItemId, MessageItem
from services.gateway.http.responses.neutral import IGNORED, NEUTRAL, without_neutral
from services.gateway.http.responses.tools import FlatChoice, FlatFormat, FlatTool
from services.gateway.limits import MAX_ALL_PARTS, MAX_MESSAGES, MAX_NAME_CHARS

LOGPROBS = "message.output_text.logprobs"
# What they would add is never there, but for the log probabilities; a kept input has its images anyway.
Includable = Literal[
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
    "message.input_image.image_url",
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.action.sources",
    "web_search_call.results",
]
MAX_METADATA = 16
# What a request has, one or both, as JSON Schema.
_ASKS = [
    {
        "required": ["input"],
        "properties": {"input": {"type": ["string", "array"], "minLength": 1, "minItems": 1}},
    },
    {"required": ["previous_response_id"], "properties": {"previous_response_id": {"type": "string"}}},
]


class Reasoning(Strict):
    # Whether the model thinks: it must match what the model does.
    effort: Effort | None = None
    # There are no summaries: the chain of thought is there whole.
    summary: Annotated[Any, only("auto")] = None
    generate_summary: Annotated[Any, only("auto")] = None
    # No chain of thought is part of the history.
    context: Annotated[Any, only("auto", "current_turn")] = None
    mode: Annotated[Any, only("standard")] = None


class TextOptions(Strict):
    format: FlatFormat | None = None
    verbosity: Annotated[Any, only("medium")] = None


class ResponseStreamOptions(Strict):
    # Nothing is obfuscated: clients do not read what it would add.
    include_obfuscation: Any = None


def _few(value: Any) -> Any:
    """Bound an object before its fields are validated: each could add an error."""
    if isinstance(value, Mapping) and len(value) > MAX_METADATA:
        raise PydanticCustomError("too_long", "too many fields", {"max_length": MAX_METADATA})
    return value


class ResponseRequest(SamplingFields):
    # May be absent where one model is served.
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    input: (
        Annotated[
            PlainText | Annotated[list[Item], Field(fail_fast=True, max_length=MAX_MESSAGES), Tag("list")], Either
        ]
        | None
    ) = None
    # The system message. It holds for this response alone.
    instructions: str | None = None
    # A response that is kept: its input and output come before the input.
    previous_response_id: ItemId | None = None
    # Whether the response is kept.
    store: bool | None = None

    # auto = the oldest turns of a conversation that is too long are dropped.
    truncation: Literal["auto", "disabled"] | None = None
    antiphon_preset: PresetField | None = Field(
        default=None, description=f"{PRESET_DESCRIPTION}. It holds for this response alone"
    )

    tools: Annotated[list[FlatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextOptions | None = None

    max_output_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    reasoning: Reasoning | None = None
    include: Annotated[list[Includable], Field(fail_fast=True, max_length=64)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None

    stream: bool | None = None
    stream_options: ResponseStreamOptions | None = None
    # These are part of the response, and change nothing.
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
            Field(max_length=MAX_METADATA),
            BeforeValidator(_few),
        ]
        | None
    ) = None
    user: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    safety_identifier: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    # Requests that share it go to the worker that has their prompt cached, if that is free.
    prompt_cache_key: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None

    @model_validator(mode="before")
    @classmethod
    def asks_for_what_is_served(cls, value: Any) -> Any:
        return without_neutral(value) if isinstance(value, Mapping) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the model's schema with the properties of neutral.py, and that something must be asked."""
        described = handler(core_schema)
        schema = handler.resolve_ref_schema(described)
        schema["properties"] |= neutral_properties(NEUTRAL, IGNORED)
        schema["anyOf"] = _ASKS
        return described

    @model_validator(mode="after")
    def fields_agree(self) -> ResponseRequest:
        """Refuse fields that contradict each other. The path is in the error's context."""
        for at_fault, problem in self._contradictions():
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": at_fault})
        return self

    def _contradictions(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        if not self.input and self.previous_response_id is None:
            found.append(("input", "Invalid 'input': there is nothing to answer. Send a text or a list of items."))
        if sum(len(content) for content in self._contents if isinstance(content, list)) > MAX_ALL_PARTS:
            found.append(("input", f"Invalid 'input': it holds more than {MAX_ALL_PARTS} parts. Send fewer."))
        return found + in_tools(self.tools or (), self.tool_choice)

    @property
    def _contents(self) -> list[Any]:
        items = self.input if isinstance(self.input, list) else []
        return [
            item.output if isinstance(item, CallOutput) else item.content
            for item in items
            if isinstance(item, CallOutput | MessageItem)
        ]

    @property
    def text_chars(self) -> int:
        """Characters of text in the input and the instructions: at most as many bytes as they take in UTF-8."""
        whole = [self.instructions or "", *([self.input] if isinstance(self.input, str) else [])]
        parts = [part for content in self._contents if isinstance(content, list) for part in content]
        texts = [content for content in self._contents if isinstance(content, str)]
        return sum(map(len, [*whole, *texts, *(getattr(part, "text", "") for part in parts)]))

    @property
    def is_kept(self) -> bool:
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or ()) or bool(self.top_logprobs)

    @property
    def thinks(self) -> bool | None:
        effort = self.reasoning.effort if self.reasoning else None
        return None if effort is None else effort != "none"

    # The form of the answer, as chat says it.

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def response_format(self) -> ResponseFormat | None:
        return self.text.format if self.text else None

    @property
    def structured_outputs(self) -> StructuredOutputs | None:
        return None
