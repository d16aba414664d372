"""The bodies of DashScope's native form: `{model, input: {messages}, parameters}`, and of text-generation.

A part of a message has no type: it is what it holds, `{"image": URL}`. The parameters are chat's fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, GetJsonSchemaHandler, Tag, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from services.gateway.http.chat.messages import Either, PlainText
from services.gateway.http.chat.neutral import IGNORED, NEUTRAL, neutral_properties, without
from services.gateway.http.chat.parts import Lenient, Pixels, Sampled, Strict
from services.gateway.http.chat.schema import ChatOptions, ModelName
from services.gateway.http.chat.tools.schema import MAX_CALLS, PastToolCall
from services.gateway.limits import MAX_FRAMES, MAX_MESSAGES, MAX_NAME_CHARS, MAX_PARTS

# Beside those that chat knows: parameters of DashScope's other models, and what this form has no place for.
_NEUTRAL = {
    **NEUTRAL,
    "asr_options": (),
    "ocr_options": (),
    "return_token_ids": (False,),
    "translation_options": (),
}
_OF_TEXT = {name: values for name, values in _NEUTRAL.items() if name != "result_format"}


class NativePart(Sampled):
    """One of `text`, `image`, `audio` and `video`: a URL, or a video's frames."""

    text: str | None = None
    image: str | None = None
    audio: str | None = None
    video: (
        Annotated[
            PlainText | Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_FRAMES), Tag("list")],
            Either,
        ]
        | None
    ) = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None

    @model_validator(mode="after")
    def holds_one_thing(self) -> NativePart:
        if sum(held is not None for held in (self.text, self.image, self.audio, self.video)) != 1:
            problem = "A part holds one of text, image, audio and video. Send a part for each."
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
        return self


Content = Annotated[
    PlainText | Annotated[list[NativePart], Field(fail_fast=True, max_length=MAX_PARTS), Tag("list")], Either
]


class NativeMessage(Lenient):
    role: Literal["system", "user", "assistant", "tool"]
    content: Content | None = None
    tool_calls: Annotated[list[PastToolCall], Field(fail_fast=True, max_length=MAX_CALLS)] | None = None
    tool_call_id: Annotated[str, Field(max_length=256)] | None = None

    @property
    def parts(self) -> list[NativePart]:
        if isinstance(self.content, str):
            return [NativePart(text=self.content)]
        return self.content or []


Messages = Annotated[list[NativeMessage], Field(fail_fast=True, min_length=1, max_length=MAX_MESSAGES)]


class NativeInput(Strict):
    messages: Messages
    voice: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = Field(
        default=None, description="as parameters.audio.voice, where DashScope's client puts it"
    )


class NativeParameters(ChatOptions):
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = _NEUTRAL

    incremental_output: bool | None = Field(
        default=None, description="an event of a stream has what is new; false = all of the text so far"
    )

    @model_validator(mode="before")
    @classmethod
    def asks_for_what_is_served(cls, value: Any) -> Any:
        return without(value, cls.neutral, IGNORED) if isinstance(value, Mapping) else value

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(core_schema)
        handler.resolve_ref_schema(described)["properties"] |= neutral_properties(cls.neutral)
        return described


class NativeRequest(Strict):
    model: ModelName | None = Field(default=None, description="may be left out where one model is served")
    input: NativeInput
    parameters: NativeParameters = Field(default_factory=NativeParameters)

    @property
    def text_chars(self) -> int:
        """Characters of text in the messages: at most as many bytes as they take in UTF-8."""
        return sum(len(part.text or "") for message in self.input.messages for part in message.parts)


class TextInput(Strict):
    """One of `prompt` and `messages`."""

    messages: Messages | None = None
    prompt: Annotated[str, Field(min_length=1)] | None = Field(default=None, description="one message of the user")

    @model_validator(mode="after")
    def asks_one_thing(self) -> TextInput:
        if (self.messages is None) == (self.prompt is None):
            problem = "The input holds one of prompt and messages. Send one of them."
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
        return self


class TextParameters(NativeParameters):
    neutral: ClassVar[Mapping[str, tuple[object, ...]]] = _OF_TEXT

    result_format: Literal["message", "text"] | None = Field(
        default=None, description="text: the output is a text, and not a choice with a message"
    )

    @property
    def are_of_text_alone(self) -> bool:
        return self.result_format == "text"


class TextRequest(Strict):
    """A request of text-generation."""

    model: ModelName | None = Field(default=None, description="may be left out where one model is served")
    input: TextInput
    parameters: TextParameters = Field(default_factory=TextParameters)

    @property
    def text_chars(self) -> int:
        """Characters of text in the input: at most as many bytes as they take in UTF-8."""
        parts = [part for message in self.input.messages or () for part in message.parts]
        return len(self.input.prompt or "") + sum(len(part.text or "") for part in parts)
