"""The client events of OpenAI's Realtime API.

Fields that ask for what is not served pass at values that ask for nothing, as in chat requests. Items and their parts
may have any other field: clients send back what they got.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Discriminator, Field, Tag, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from services.common.http.errors import bad_input_from
from services.gateway.http.chat.parts import Lenient, Strict
from services.gateway.http.chat.sampling import Penalty, RepetitionPenalty
from services.gateway.http.chat.schema import Probability, Seed, Talker, Voice
from services.gateway.http.chat.tools.schema import MAX_TOOLS, FunctionName
from services.gateway.http.presets.schema import PresetField
from services.gateway.http.responses.tools import FlatChoice, FlatTool
from services.gateway.http.transcription.languages import LANGUAGES
from services.gateway.limits import MAX_NAME_CHARS
from services.gateway.realtime.conversation import MAX_CONTENTS, MAX_ITEMS

_MAX_PROMPT_CHARS = 4096


def unserved(*neutral: object) -> BeforeValidator:
    """Return a validator for a field that is not served. It accepts null and the `neutral` values."""

    def check(value: Any) -> Any:
        if value is not None and not any(type(value) is type(n) and value == n for n in neutral):
            raise PydanticCustomError("unsupported_parameter", "not served", {"accepted": list(neutral)})
        return value

    return BeforeValidator(check)


_ITEM_TYPES = ("message", "function_call", "function_call_output")


def _only_items(value: Any) -> Any:
    """Return an item with its type, which a message may lack."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("type")
    if kind is None:
        return {**value, "type": "message"}
    if isinstance(kind, str) and kind not in (*_ITEM_TYPES, "item_reference"):
        problem = f"Items of type {json.dumps(kind[:100])} are not served. Send {', '.join(_ITEM_TYPES)}."
        raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
    return value


Id = Annotated[str, Field(pattern=r"^[!-~]{1,128}$")]
CallId = Annotated[str, Field(min_length=1, max_length=256)]
OneModality = Annotated[list[Literal["text", "audio"]], Field(fail_fast=True, min_length=1, max_length=1)]


# Items


class TextPart(Lenient):
    type: Literal["input_text", "output_text", "text"]
    text: str


class AudioPart(Lenient):
    type: Literal["input_audio"]
    audio: str
    transcript: str | None = None


class ImagePart(Lenient):
    type: Literal["input_image"]
    image_url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class SpokenPart(Lenient):
    """An answer sent back as history. The model reads its transcript."""

    type: Literal["output_audio", "audio"]
    transcript: str


UserPart = Annotated[TextPart | AudioPart | ImagePart, Field(discriminator="type")]
AssistantPart = Annotated[TextPart | SpokenPart, Field(discriminator="type")]


class _MessageItem(Lenient):
    type: Literal["message"]
    id: Id | None = None


class UserItem(_MessageItem):
    role: Literal["user"]
    content: Annotated[list[UserPart], Field(fail_fast=True, min_length=1, max_length=MAX_CONTENTS)]


class SystemItem(_MessageItem):
    role: Literal["system"]
    content: Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=MAX_CONTENTS)]


class AssistantItem(_MessageItem):
    role: Literal["assistant"]
    content: Annotated[list[AssistantPart], Field(fail_fast=True, max_length=MAX_CONTENTS)]


class CallItem(Lenient):
    """A call of a function by the model, sent back as history."""

    type: Literal["function_call"]
    id: Id | None = None
    call_id: CallId | None = None
    name: FunctionName
    # The text of a JSON object; "" = no arguments.
    arguments: str


class CallOutputItem(Lenient):
    type: Literal["function_call_output"]
    id: Id | None = None
    call_id: CallId
    output: str


class ItemReference(Lenient):
    type: Literal["item_reference"]
    id: Id


AnyItem = UserItem | SystemItem | AssistantItem | CallItem | CallOutputItem
_Message = Annotated[UserItem | SystemItem | AssistantItem, Field(discriminator="role")]
ItemGiven = Annotated[
    Annotated[_Message | CallItem | CallOutputItem, Field(discriminator="type")], BeforeValidator(_only_items)
]
InputItem = Annotated[
    Annotated[_Message | CallItem | CallOutputItem | ItemReference, Field(discriminator="type")],
    BeforeValidator(_only_items),
]


# The session and a response


class PcmFormat(Strict):
    type: Literal["audio/pcm"]
    # 24000 by default. OpenAI has no other.
    rate: Literal[8000, 16000, 24000, 48000] | None = None


class G711Format(Strict):
    type: Literal["audio/pcmu", "audio/pcma"]
    rate: Literal[8000] | None = None


Format = Annotated[PcmFormat | G711Format, Field(discriminator="type")]


class ServerVad(Strict):
    type: Literal["server_vad"]
    threshold: Annotated[float, Field(ge=0, le=1)] | None = None
    prefix_padding_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    silence_duration_ms: Annotated[int, Field(ge=0, le=10_000)] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    idle_timeout_ms: Annotated[int, Field(ge=5000, le=30_000)] | None = None


class SemanticVad(Strict):
    type: Literal["semantic_vad"]
    eagerness: Literal["low", "medium", "high", "auto"] | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None


def _known_language(value: str) -> str:
    if value.lower() not in LANGUAGES:
        problem = f"The model does not know this language. Send one of: {', '.join(LANGUAGES)}."
        raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
    return value


Language = Annotated[str, AfterValidator(_known_language)]


class InputTranscription(Strict):
    # Any: the session's own model transcribes.
    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    language: Language | None = None
    prompt: Annotated[str, Field(max_length=_MAX_PROMPT_CHARS)] | None = None
    # Hints of other models.
    delay: Annotated[Any, unserved()] = None
    keywords: Annotated[Any, unserved([])] = None
    languages: Annotated[Any, unserved([])] = None


class AudioInput(Strict):
    format: Format | None = None
    noise_reduction: Annotated[Any, unserved()] = None
    transcription: InputTranscription | None = None
    turn_detection: Annotated[ServerVad | SemanticVad, Field(discriminator="type")] | None = None


class AudioOutput(Strict):
    format: Format | None = None
    voice: Voice | None = None
    speed: Annotated[Any, unserved(1, 1.0)] = None


class SessionAudio(Strict):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class ResponseAudio(Strict):
    output: AudioOutput | None = None


class Options(Strict):
    """What a session and a response have in common."""

    instructions: str | None = None
    output_modalities: OneModality | None = None
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**32)] | Literal["inf"] | None = None
    tools: Annotated[list[FlatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: FlatChoice | None = None
    parallel_tool_calls: bool | None = None
    prompt: Annotated[Any, unserved()] = None
    reasoning: Annotated[Any, unserved()] = None
    # Extensions, with the meaning that they have in chat requests. A preset that is null takes the session's away.
    antiphon_preset: PresetField | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None
    talker: Talker | None = None


class RetentionRatio(Strict):
    type: Literal["retention_ratio"]
    retention_ratio: Annotated[float, Field(ge=0, le=1)]
    # Tokens are not counted before the model does.
    token_limits: Annotated[Any, unserved()] = None


Truncation = Annotated[
    Annotated[Literal["auto", "disabled"], Tag("mode")] | Annotated[RetentionRatio, Tag("ratio")],
    Discriminator(lambda value: "mode" if isinstance(value, str) else "ratio"),
]


class SessionOptions(Options):
    type: Literal["realtime"] = "realtime"
    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    audio: SessionAudio | None = None
    include: Annotated[Any, unserved([])] = None
    tracing: Annotated[Any, unserved("auto")] = None
    truncation: Truncation | None = None


class ResponseOptionsGiven(Options):
    audio: ResponseAudio | None = None
    conversation: Literal["auto", "none"] | None = None
    input: (
        Annotated[
            list[InputItem],
            Field(fail_fast=True, max_length=MAX_ITEMS),
        ]
        | None
    ) = None
    metadata: (
        Annotated[
            dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]], Field(max_length=16)
        ]
        | None
    ) = None


# Events


class _Event(Strict):
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(_Event):
    type: Literal["session.update"]
    session: SessionOptions


class AudioAppend(_Event):
    type: Literal["input_audio_buffer.append"]
    audio: str


class AudioCommit(_Event):
    type: Literal["input_audio_buffer.commit"]


class AudioClear(_Event):
    type: Literal["input_audio_buffer.clear"]


class ItemCreate(_Event):
    type: Literal["conversation.item.create"]
    item: ItemGiven
    previous_item_id: Id | None = None


class ItemRetrieve(_Event):
    type: Literal["conversation.item.retrieve"]
    item_id: Id


class ItemDelete(_Event):
    type: Literal["conversation.item.delete"]
    item_id: Id


class ItemTruncate(_Event):
    type: Literal["conversation.item.truncate"]
    item_id: Id
    content_index: Annotated[int, Field(ge=0, lt=2**31)]
    audio_end_ms: Annotated[int, Field(ge=0, lt=2**31)]


class ResponseCreate(_Event):
    type: Literal["response.create"]
    response: ResponseOptionsGiven | None = None


class ResponseCancel(_Event):
    type: Literal["response.cancel"]
    response_id: Id | None = None


ClientEvent = Annotated[
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


def parse_event(raw: dict[str, Any]) -> ClientEvent:
    """Raise BadInput that names the field as the client wrote it."""
    try:
        return _EVENT.validate_python(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
