"""The answers of DashScope's native forms, as the OpenAPI document describes them. write.py writes them."""

from __future__ import annotations

from enum import Enum
from typing import Literal

from pydantic import Field

from services.common.limit_kinds import LimitKind
from services.gateway.http.chat.reply import CalledFunction, Logprobs
from services.gateway.http.dashscope.errors import CODES
from services.gateway.http.reply import Reply, Spoken, maybe

DashScopeCode = Enum("DashScopeCode", {code: code for code in sorted(CODES)}, type=str)


FinishReason = Literal["null", "stop", "length", "tool_calls"]


class DashScopeError(Reply):
    code: DashScopeCode  # pyright: ignore[reportInvalidTypeForm]
    message: str = Field(description="for people: what is wrong, with the field, and what to do")
    request_id: str


class NativeText(Reply):
    text: str


class NativeToolCall(Reply):
    index: int
    id: str
    type: Literal["function"]
    function: CalledFunction


class NativeAnswer(Reply):
    role: Literal["assistant"]
    content: list[NativeText] = Field(description="one text, or none")
    reasoning_content: str = maybe("the chain of thought of a Thinking model")
    tool_calls: list[NativeToolCall] = maybe("in a stream, arguments are to be joined by `index`")


class NativeChoice(Reply):
    index: int
    message: NativeAnswer
    finish_reason: FinishReason = Field(description="the text null until the choice ends")
    logprobs: Logprobs = maybe()


class NativeAudio(Reply):
    id: str
    data: str = Field(description="base64 of a file; in a stream, of what is new, and can be concatenated")
    expires_at: int = maybe("at the end")
    file_id: str = maybe("beside it: the file at /v1/files that has the speech until then")


class NativeOutput(Reply):
    choices: list[NativeChoice]
    audio: NativeAudio = maybe("of a spoken answer")


class TextAnswer(NativeAnswer):
    content: str  # pyright: ignore[reportIncompatibleVariableOverride]


class TextChoice(NativeChoice):
    message: TextAnswer  # pyright: ignore[reportIncompatibleVariableOverride]


class TextOutput(Reply):
    """One of `choices` and `text`, as `result_format` says."""

    choices: list[TextChoice] = maybe()
    text: str = maybe()
    finish_reason: FinishReason = maybe("of the text")
    audio: NativeAudio = maybe("of a spoken answer")


class NativeInputDetails(Reply):
    text_tokens: int
    image_tokens: int
    audio_tokens: int
    video_tokens: int


class NativeOutputDetails(Reply):
    text_tokens: int
    audio_tokens: int
    reasoning_tokens: int


class NativePromptDetails(Reply):
    cached_tokens: int


class NativeUsage(Reply):
    input_tokens: int
    output_tokens: int = Field(description="a token of speech is one codec frame, 80 ms")
    total_tokens: int
    image_tokens: int = maybe("of the prompt; these and the details are there at the end")
    audio_tokens: int = maybe("of the prompt")
    video_tokens: int = maybe("of the prompt")
    input_tokens_details: NativeInputDetails = maybe()
    output_tokens_details: NativeOutputDetails = maybe()
    prompt_tokens_details: NativePromptDetails = maybe()


class NativeReply(Spoken):
    """An answer, or an event of a stream of it."""

    output: NativeOutput
    usage: NativeUsage
    request_id: str
    antiphon_limit: LimitKind = maybe("the limit of the key, its project or organisation that cut the answer")
    antiphon_dropped_messages: int = maybe("the oldest messages that `truncation: auto` left out")


class TextReply(NativeReply):
    """An answer of text-generation, or an event of a stream of it."""

    output: TextOutput  # pyright: ignore[reportIncompatibleVariableOverride]
