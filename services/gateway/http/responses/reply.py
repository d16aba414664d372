"""The answers of /v1/responses, as the OpenAPI document describes them. answer.py writes them without these."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from services.common.limit_kinds import LimitKind
from services.gateway.http.chat.reply import CompletionTokensDetails, PromptTokensDetails, TokenLogprob
from services.gateway.http.chat.schema import Effort
from services.gateway.http.presets.presets import PresetName
from services.gateway.http.reply import Reply, maybe


class IncompleteDetails(Reply):
    reason: Literal["max_output_tokens"]


class ResponseFailure(Reply):
    code: str
    message: str


class InputTokensDetails(PromptTokensDetails):
    cache_write_tokens: int


class ResponseUsage(Reply):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: CompletionTokensDetails
    total_tokens: int


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class AnswerText(Reply):
    type: Literal["output_text"]
    text: str
    annotations: list[Any] = Field(description="always empty", max_length=0)
    logprobs: list[TokenLogprob] = Field(description="empty unless they are asked for")


class OutputMessage(Reply):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[AnswerText]


class ReasoningText(Reply):
    type: Literal["reasoning_text"]
    text: str


class OutputReasoning(Reply):
    """A chain of thought."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any] = Field(description="always empty", max_length=0)
    content: list[ReasoningText]


class OutputCall(Reply):
    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str = Field(description="the text of a JSON object")


OutputItem = Annotated[OutputMessage | OutputReasoning | OutputCall, Field(discriminator="type")]


class ReasoningAsked(Reply):
    effort: Effort | None
    summary: None


class FormAsked(Reply):
    type: Literal["text", "json_object"]


class SchemaAsked(Reply):
    type: Literal["json_schema"]
    name: str
    description: str | None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool


class TextAsked(Reply):
    format: Annotated[FormAsked | SchemaAsked, Field(discriminator="type")]
    verbosity: Literal["medium"]


class ToolAsked(Reply):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool


class ChoiceAsked(Reply):
    type: Literal["function"]
    name: str


class PresetAsked(Reply):
    name: PresetName
    language: str = maybe("of the speech")
    to_language: str = maybe("that of a translation")


class ResponseObject(Reply):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int = maybe("when the answer was whole")
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    antiphon_limit: LimitKind = maybe("the limit of the key, its project or organisation that cut it")
    antiphon_dropped_messages: int = maybe("the oldest messages that `truncation: auto` left out")
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    store: bool = Field(description="whether it is kept, so that its id can be used")
    # What the request asked for.
    antiphon_preset: PresetAsked = maybe("the named prompt, with its parameters")
    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: None
    metadata: dict[str, str]
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    reasoning: ReasoningAsked
    safety_identifier: str | None
    service_tier: Literal["default"]
    temperature: float | None
    text: TextAsked
    tool_choice: Literal["none", "auto", "required"] | ChoiceAsked
    tools: list[ToolAsked]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    user: str | None


class DeletedResponse(Reply):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItemsReply(Reply):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool
