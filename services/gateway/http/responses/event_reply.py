"""The events of a response, as the OpenAPI document describes them. events.py writes them without these: they come
often."""

from __future__ import annotations

from typing import Literal

from services.common.http.error_reply import Problem
from services.gateway.http.chat.reply import TokenLogprob
from services.gateway.http.reply import Reply
from services.gateway.http.responses.reply import AnswerText, OutputItem, ReasoningText, ResponseObject


class _Event(Reply):
    sequence_number: int


class ResponseChanged(_Event):
    type: Literal[
        "response.created",
        "response.in_progress",
        "response.completed",
        "response.incomplete",
        "response.failed",
    ]
    response: ResponseObject


class OutputItemChanged(_Event):
    type: Literal["response.output_item.added", "response.output_item.done"]
    output_index: int
    item: OutputItem


class _OfItem(_Event):
    item_id: str
    output_index: int


class _OfPart(_OfItem):
    content_index: int


class ContentPartChanged(_OfPart):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: AnswerText | ReasoningText


class OutputTextDelta(_OfPart):
    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: list[TokenLogprob]


class OutputTextDone(_OfPart):
    type: Literal["response.output_text.done"]
    text: str
    logprobs: list[TokenLogprob]


class ReasoningTextDelta(_OfPart):
    type: Literal["response.reasoning_text.delta"]
    delta: str


class ReasoningTextDone(_OfPart):
    type: Literal["response.reasoning_text.done"]
    text: str


class CallArgumentsDelta(_OfItem):
    type: Literal["response.function_call_arguments.delta"]
    delta: str


class CallArgumentsDone(_OfItem):
    type: Literal["response.function_call_arguments.done"]
    name: str
    arguments: str


class ResponseError(_Event):
    """It comes before response.failed. `error` is that of the other endpoints; the rest is OpenAI's form."""

    type: Literal["error"]
    code: str | None
    message: str
    param: str | None
    error: Problem


EVENTS = (
    ResponseChanged,
    OutputItemChanged,
    ContentPartChanged,
    OutputTextDelta,
    OutputTextDone,
    ReasoningTextDelta,
    ReasoningTextDone,
    CallArgumentsDelta,
    CallArgumentsDone,
    ResponseError,
)
