"""The answers of POST /v1/chat/completions, as the OpenAPI document describes them. completion.py and
whole_completion.py write them without these: pieces come often."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from services.common.limit_kinds import LimitKind
from services.gateway.http.reply import Reply, Spoken, maybe

FinishReason = Literal["stop", "length", "tool_calls"]


class CalledFunction(Reply):
    name: str
    arguments: str = Field(description="the text of a JSON object")


class ToolCall(Reply):
    id: str
    type: Literal["function"]
    function: CalledFunction


class AnswerAudio(Reply):
    id: str
    data: str = Field(description="base64 of a file of the format")
    transcript: str
    expires_at: int = Field(
        description="until when the answer may be sent back by its id alone; when it ended, where it is not kept"
    )
    file_id: str = maybe("the file at /v1/files that has the speech until then; it is there shortly after the answer")
    codes: list[int] = maybe("with return_token_ids: the codec's codes, frame by frame")
    codebooks: int = maybe("codes of a frame")


class AnswerMessage(Reply):
    role: Literal["assistant"]
    content: str | None = Field(description="null in a spoken answer, and beside calls of tools alone")
    refusal: None
    reasoning_content: str = maybe("the chain of thought of a Thinking model")
    tool_calls: list[ToolCall] = maybe()
    audio: AnswerAudio = maybe()


class TopLogprob(Reply):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class Logprobs(Reply):
    content: list[TokenLogprob]
    refusal: None


class Choice(Reply):
    index: int
    message: AnswerMessage
    logprobs: Logprobs | None
    finish_reason: FinishReason
    stop_reason: str | int = maybe("the stop string, or the stop token's id, that ended the text")
    token_ids: list[int] = maybe("with return_token_ids")


class PromptTokensDetails(Reply):
    text_tokens: int
    audio_tokens: int
    image_tokens: int
    video_tokens: int
    cached_tokens: int


class CompletionTokensDetails(Reply):
    text_tokens: int
    audio_tokens: int = Field(description="codec frames, 80 ms each")
    reasoning_tokens: int


class CompletionUsage(Reply):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class ChatCompletion(Spoken):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: CompletionUsage
    antiphon_limit: LimitKind = maybe("the limit of the key, its project or organisation that cut the answer")
    antiphon_dropped_messages: int = maybe("the oldest messages that `truncation: auto` left out")
    prompt_token_ids: list[int] = maybe("with return_token_ids")


class CalledFunctionDelta(Reply):
    name: str = maybe()
    arguments: str


class ToolCallDelta(Reply):
    index: int
    id: str = maybe()
    type: Literal["function"] = maybe()
    function: CalledFunctionDelta


class AudioDelta(Reply):
    id: str = maybe()
    transcript: str = maybe()
    data: str = maybe("base64 that can be concatenated")
    expires_at: int = maybe()
    file_id: str = maybe()
    codes: list[int] = maybe()
    codebooks: int = maybe()


class Delta(Reply):
    role: Literal["assistant"] = maybe()
    content: str = maybe()
    reasoning_content: str = maybe()
    audio: AudioDelta = maybe()
    tool_calls: list[ToolCallDelta] = maybe()


class ChoiceDelta(Reply):
    index: int
    delta: Delta
    logprobs: Logprobs | None
    finish_reason: FinishReason | None
    stop_reason: str | int = maybe()
    token_ids: list[int] = maybe()


class ChatCompletionChunk(Spoken):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChoiceDelta] = Field(description="empty in the last chunk, which has the usage")
    usage: CompletionUsage | None = maybe("there with stream_options.include_usage; null but in the last chunk")
    antiphon_limit: LimitKind = maybe("in the last chunk of a choice: the limit that cut the answer")
    antiphon_dropped_messages: int = maybe("the oldest messages that `truncation: auto` left out")
    prompt_token_ids: list[int] = maybe("in the first chunk, with return_token_ids")
