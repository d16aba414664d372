"""The body of POST /v1/chat/completions.

There are four kinds of fields: those that are served; OpenAI's that have no effect here and are accepted; OpenAI's that
are not served yet and are refused unless their value means "off"; and unknown ones, which are refused as OpenAI does,
so that a misspelt field is noticed. Fields that would reach into the engine (ENGINE_FIELDS) are refused with a message
of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.http.chat.parts import AssistantPart, Strict, TextPart, UserPart
from services.gateway.limits import (
    MAX_ALL_PARTS,
    MAX_BIASES,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_PARTS,
    MAX_STOP_TOKEN_IDS,
    MAX_STOPS,
)

ENGINE_FIELDS = frozenset({
    "add_generation_prompt", "add_special_tokens", "cache_salt", "chat_template", "chat_template_kwargs",
    "continue_final_message", "documents", "guided_choice", "guided_grammar", "guided_json", "guided_regex",
    "kv_transfer_params", "media_io_kwargs", "prompt_embeds", "structured_outputs", "vllm_xargs",
})  # fmt: skip


def _off(*neutral: object) -> Callable[[Any], Any]:
    """Return a validator for a field that is not served. It accepts null and the `neutral` values."""

    def check(value: Any) -> Any:
        if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
            raise PydanticCustomError("unsupported_parameter", "this value is not supported here")
        return value

    return check


def _at_most(limit: int) -> Callable[[Any], Any]:
    """Return a validator that bounds an object before its fields are validated: each could add an error."""

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > limit:
            raise PydanticCustomError("too_long", "too many fields", {"max_length": limit})
        return value

    return check


Ignored = Any
Seed = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]
Probability = Annotated[float, Field(gt=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]


def _is_text(value: Any) -> str:
    return "text" if isinstance(value, str) else "list"


# A string or a list. The discriminator makes an error speak of the one that was given.
Either = Discriminator(_is_text)
Texts = Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
UserParts = Annotated[list[UserPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
AssistantParts = Annotated[list[AssistantPart], Field(fail_fast=True, max_length=MAX_PARTS), Tag("list")]
PlainText = Annotated[str, Tag("text")]
Stop = Annotated[str, Field(min_length=1, max_length=256)]


class SystemMessage(Strict):
    role: Literal["system", "developer"]
    content: Annotated[PlainText | Texts, Either]
    name: Ignored = None


class UserMessage(Strict):
    role: Literal["user"]
    content: Annotated[PlainText | UserParts, Either]
    name: Ignored = None


class PastAudio(Strict):
    """The `audio` of an answer that is sent back as history. The model reads its transcript."""

    id: Ignored = None
    data: Ignored = None
    transcript: str | None = None
    expires_at: Ignored = None
    codes: Ignored = None
    codebooks: Ignored = None


class AssistantMessage(Strict):
    """An answer sent back as history, in any form that we or a client's library give it.

    The model reads its content, transcript or refusal; the chain of thought is not part of the history.
    """

    role: Literal["assistant"]
    content: Annotated[PlainText | AssistantParts, Either] | None = None
    audio: PastAudio | None = None
    tool_calls: Annotated[Any, BeforeValidator(_off([]))] = None
    function_call: Annotated[Any, BeforeValidator(_off())] = None
    refusal: str | None = None
    name: Ignored = None
    reasoning: Ignored = None
    reasoning_content: Ignored = None
    # What libraries add to an answer: openai's `stream` and `parse`, LiteLLM.
    annotations: Ignored = None
    parsed: Ignored = None
    provider_specific_fields: Ignored = None
    thinking_blocks: Ignored = None
    images: Annotated[Any, BeforeValidator(_off([]))] = None


Message = Annotated[SystemMessage | UserMessage | AssistantMessage, Field(discriminator="role")]


class VoiceId(Strict):
    id: str


def _voice_object(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


class Audio(Strict):
    voice: Annotated[VoiceId, BeforeValidator(_voice_object)] | None = None
    # wav is a WAV file where the answer is not streamed. In a stream both are headerless 16-bit samples.
    format: Literal["wav", "pcm16"] = "wav"

    @property
    def voice_name(self) -> str:
        return self.voice.id if self.voice else ""


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class ProcessorArguments(Strict):
    """The only field of vLLM's mm_processor_kwargs that a client may set."""

    use_audio_in_video: bool | None = None


class Talker(Strict):
    """How speech is sampled. An absent field takes the model's default."""

    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top_p: Probability | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Seed | None = None
    max_frames: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class ChatRequest(Strict):
    # May be absent where one model is served.
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = None
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]

    modalities: Annotated[list[Literal["text", "audio"]], Field(fail_fast=True, min_length=1, max_length=2)] | None = (
        None
    )
    audio: Audio | None = None
    talker: Talker | None = None
    use_audio_in_video: bool | None = None
    mm_processor_kwargs: ProcessorArguments | None = None

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    # Both -1 and 0 mean off, as in vLLM.
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=10)] | None = None
    seed: Seed | None = None
    stop: (
        Annotated[
            Annotated[Stop, Tag("text")]
            | Annotated[list[Stop], Field(fail_fast=True, max_length=MAX_STOPS), Tag("list")],
            Either,
        ]
        | None
    ) = None
    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    ignore_eos: bool | None = None
    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            BeforeValidator(_at_most(MAX_BIASES)),
        ]
        | None
    ) = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # An extension: adds prompt_token_ids and token_ids, as vLLM does, and the codec codes of speech.
    return_token_ids: bool | None = None
    # DashScope's switch. It must match what the model does.
    enable_thinking: bool | None = None
    # OpenAI's hint that requests share a prompt. They go to the worker that has it cached, if that is free.
    prompt_cache_key: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None

    metadata: Ignored = None
    parallel_tool_calls: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    user: Ignored = None

    moderation: Annotated[Any, BeforeValidator(_off())] = None
    n: Annotated[Any, BeforeValidator(_off(1))] = None
    best_of: Annotated[Any, BeforeValidator(_off(1))] = None
    function_call: Annotated[Any, BeforeValidator(_off("none", "auto"))] = None
    functions: Annotated[Any, BeforeValidator(_off([]))] = None
    logprobs: Annotated[Any, BeforeValidator(_off(False))] = None
    top_logprobs: Annotated[Any, BeforeValidator(_off(0))] = None
    prediction: Annotated[Any, BeforeValidator(_off())] = None
    reasoning_effort: Annotated[Any, BeforeValidator(_off())] = None
    response_format: Annotated[Any, BeforeValidator(_off({"type": "text"}))] = None
    tool_choice: Annotated[Any, BeforeValidator(_off("none", "auto"))] = None
    tools: Annotated[Any, BeforeValidator(_off([]))] = None
    verbosity: Annotated[Any, BeforeValidator(_off("medium"))] = None
    web_search_options: Annotated[Any, BeforeValidator(_off())] = None

    @model_validator(mode="after")
    def fields_agree(self) -> ChatRequest:
        """Refuse fields that contradict each other. The path is in the error's context."""
        for at_fault, problem in _contradictions(self):
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": at_fault})
        return self

    @property
    def text_chars(self) -> int:
        """Characters of text in the messages: at most as many bytes as they take in UTF-8."""
        contents = [message.content or "" for message in self.messages]
        return sum(
            len(content) if isinstance(content, str) else sum(len(p.text) for p in content if isinstance(p, TextPart))
            for content in contents
        )

    @property
    def wants_speech(self) -> bool:
        return "audio" in (self.modalities or ())

    @property
    def wants_audio_in_video(self) -> bool:
        inner = self.mm_processor_kwargs.use_audio_in_video if self.mm_processor_kwargs else None
        return bool(self.use_audio_in_video or inner)

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens


def _contradictions(chat: ChatRequest) -> list[tuple[str, str]]:
    """Return (field at fault, message) of each contradiction, the most telling first."""
    found: list[tuple[str, str]] = []
    if sum(len(m.content) for m in chat.messages if isinstance(m.content, list)) > MAX_ALL_PARTS:
        found.append(("messages", f"Invalid 'messages': they hold more than {MAX_ALL_PARTS} parts. Send fewer."))
    if chat.modalities is not None and "text" not in chat.modalities:
        found.append(("modalities", 'Invalid \'modalities\': speech comes with its text. Send ["text", "audio"].'))
    if chat.modalities is not None and len(set(chat.modalities)) < len(chat.modalities):
        found.append(("modalities", "Invalid 'modalities': one of them is listed twice."))
    if chat.audio is not None and not chat.wants_speech:
        found.append(("audio", "Invalid 'audio': the answer has no speech. Add \"audio\" to 'modalities'."))
    if chat.talker is not None and not chat.wants_speech:
        found.append(("talker", "Invalid 'talker': the answer has no speech. Add \"audio\" to 'modalities'."))
    inner = chat.mm_processor_kwargs.use_audio_in_video if chat.mm_processor_kwargs else None
    if inner is not None and chat.use_audio_in_video is not None and inner != chat.use_audio_in_video:
        found.append(
            (
                "mm_processor_kwargs.use_audio_in_video",
                "'use_audio_in_video' and 'mm_processor_kwargs.use_audio_in_video' differ. Send one of them.",
            )
        )
    if None not in (chat.max_tokens, chat.max_completion_tokens) and chat.max_tokens != chat.max_completion_tokens:
        found.append(("max_tokens", "'max_tokens' and 'max_completion_tokens' differ. Send one of them."))
    if chat.min_tokens is not None and chat.token_limit is not None and chat.min_tokens > chat.token_limit:
        found.append(("min_tokens", "Invalid 'min_tokens': it is larger than the limit on the answer's tokens."))
    if chat.stream_options is not None and not chat.stream:
        found.append(("stream_options", "Invalid 'stream_options': it needs 'stream': true."))
    return found
