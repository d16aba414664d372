"""The body of POST /v1/chat/completions.

There are three kinds of top-level fields: those that are served, which are here; known ones that are not, which pass
at values that ask for nothing (neutral.py); and unknown ones, which are refused as OpenAI does, so that a misspelt
field is noticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from services.gateway.audio.formats import AudioFormat
from services.gateway.http.chat.contradictions import contradictions
from services.gateway.http.chat.messages import Message
from services.gateway.http.chat.neutral import neutral_properties, without_neutral
from services.gateway.http.chat.parts import FramesPerSecond, Strict, TextPart
from services.gateway.http.chat.sampling import RepetitionPenalty, SamplingFields, Seed
from services.gateway.http.chat.structure.schema import ResponseFormat, StructuredOutputs
from services.gateway.http.chat.tools.schema import MAX_TOOLS, NamedTool, Tool, ToolChoice
from services.gateway.http.presets.schema import PRESET_DESCRIPTION, PresetField
from services.gateway.limits import (
    MAX_ALL_PARTS,
    MAX_BIASES,
    MAX_MESSAGES,
    MAX_NAME_CHARS,
    MAX_STOP_TOKEN_IDS,
)


def _at_most(limit: int) -> Callable[[Any], Any]:
    """Return a validator that bounds an object before its fields are validated: each could add an error."""

    def check(value: Any) -> Any:
        if isinstance(value, Mapping) and len(value) > limit:
            raise PydanticCustomError("too_long", "too many fields", {"max_length": limit})
        return value

    return check


Probability = Annotated[float, Field(gt=0, le=1)]
ModelName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


class VoiceId(Strict):
    id: str


def voice_object(value: Any) -> Any:
    return {"id": value} if isinstance(value, str) else value


Voice = Annotated[VoiceId, BeforeValidator(voice_object, json_schema_input_type=VoiceId | str)]


class Audio(Strict):
    voice: Voice | None = None
    format: AudioFormat | None = Field(
        default=None, description="wav where it is left out; in a stream that is headerless samples, as pcm16 is"
    )

    @property
    def file_format(self) -> AudioFormat:
        return self.format or "wav"

    @property
    def voice_name(self) -> str:
        return self.voice.id if self.voice else ""


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Any = None
    # vLLM's, which load tools send: usage is in the last chunk alone.
    continuous_usage_stats: Any = None


# One flag for all videos, or a list with one for each.
AudioInVideo = Annotated[
    Annotated[bool, Tag("flag")] | Annotated[list[bool], Field(fail_fast=True, max_length=MAX_ALL_PARTS), Tag("list")],
    Discriminator(lambda value: "list" if isinstance(value, list) else "flag"),
]


class ProcessorArguments(Strict):
    """The fields of vLLM's mm_processor_kwargs that a client may set."""

    use_audio_in_video: AudioInVideo | None = None
    # Of each video that has none of its own.
    fps: FramesPerSecond | None = None


class TemplateArguments(Strict):
    """The only field of vLLM's chat_template_kwargs that a client may set."""

    enable_thinking: bool | None = None


class Talker(Strict):
    """How speech is sampled. An absent field takes the model's default."""

    do_sample: bool | None = None
    temperature: Annotated[float, Field(gt=0, le=10)] | None = None
    top_k: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    top_p: Probability | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    max_frames: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class ChatOptions(SamplingFields):
    """How a conversation is to be answered, in the names that OpenAI's and DashScope's form share."""

    modalities: Annotated[list[Literal["text", "audio"]], Field(fail_fast=True, min_length=1, max_length=2)] | None = (
        None
    )
    audio: Audio | None = None
    talker: Talker | None = None
    use_audio_in_video: AudioInVideo | None = None
    mm_processor_kwargs: ProcessorArguments | None = None

    stop_token_ids: (
        Annotated[list[Annotated[int, Field(ge=0, lt=2**32)]], Field(fail_fast=True, max_length=MAX_STOP_TOKEN_IDS)]
        | None
    ) = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    min_tokens: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    ignore_eos: bool | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = Field(
        default=None, description="also of the likeliest tokens at each place"
    )
    n: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = Field(
        default=None, description="choices; the operator bounds them"
    )

    tools: Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None

    logit_bias: (
        Annotated[
            dict[Annotated[str, Field(pattern=r"^\d{1,9}$")], Annotated[float, Field(ge=-100, le=100)]],
            BeforeValidator(_at_most(MAX_BIASES)),
        ]
        | None
    ) = None

    return_token_ids: bool | None = Field(
        default=None,
        description="an extension: adds prompt_token_ids and token_ids, as vLLM does, and the codec codes of speech",
    )
    # As DashScope, vLLM and OpenAI ask for it.
    enable_thinking: bool | None = Field(
        default=None, description="whether the model thinks: it must match what the model does"
    )
    chat_template_kwargs: TemplateArguments | None = None
    reasoning_effort: Effort | None = Field(
        default=None, description="none = it does not think, all others = it does: it must match what the model does"
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        default=None,
        description="an extension: auto drops the oldest turns of a conversation that is too long for the model",
    )
    antiphon_preset: PresetField | None = Field(default=None, description=PRESET_DESCRIPTION)
    prompt_cache_key: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = Field(
        default=None,
        description="requests that share it go to the worker that has their prompt cached, if that is free",
    )


class ChatRequest(ChatOptions):
    model: ModelName | None = Field(default=None, description="may be left out where one model is served")
    messages: Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="before")
    @classmethod
    def asks_for_what_is_served(cls, value: Any) -> Any:
        return without_neutral(value) if isinstance(value, Mapping) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the model's schema and, among its properties, those of neutral.py."""
        described = handler(core_schema)
        handler.resolve_ref_schema(described)["properties"] |= neutral_properties()
        return described

    @model_validator(mode="after")
    def fields_agree(self) -> ChatRequest:
        """Refuse fields that contradict each other. The path is in the error's context."""
        for at_fault, problem in contradictions(self):
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
    def audio_in_video(self) -> tuple[str, bool | list[bool]]:
        """The field that says which videos are heard, and its flag for all of them or flags for each."""
        inner = self.mm_processor_kwargs.use_audio_in_video if self.mm_processor_kwargs else None
        if self.use_audio_in_video is None and inner is not None:
            return "mm_processor_kwargs.use_audio_in_video", inner
        return "use_audio_in_video", self.use_audio_in_video if self.use_audio_in_video is not None else False

    @property
    def wants_audio_in_video(self) -> bool:
        _, flags = self.audio_in_video
        return any(flags) if isinstance(flags, list) else flags

    @property
    def may_call_tools(self) -> bool:
        return bool(self.tools) and self.tool_choice != "none"

    @property
    def calls_are_structured(self) -> bool:
        """Whether the answer is not free: a call is required, must follow its schema, or must be the only one."""
        return self.may_call_tools and (
            self.tool_choice == "required"
            or isinstance(self.tool_choice, NamedTool)
            or self.parallel_tool_calls is False
            or any(tool.function.strict for tool in self.tools or ())
        )

    @property
    def thinking(self) -> dict[str, bool]:
        """What the client expects of the model, by the field that says so: whether it thinks."""
        inner = self.chat_template_kwargs.enable_thinking if self.chat_template_kwargs else None
        effort = self.reasoning_effort
        said = {
            "enable_thinking": self.enable_thinking,
            "chat_template_kwargs.enable_thinking": inner,
            "reasoning_effort": None if effort is None else effort != "none",
        }
        return {name: thinks for name, thinks in said.items() if thinks is not None}

    @property
    def token_limit(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens
