"""The client events of DashScope's realtime API, as its SDK sends them: nulls stand for what is not given.

Fields that ask for what is not served pass at values that ask for nothing, as in OpenAI's dialect.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from services.common.http.errors import bad_input_from
from services.gateway.http.chat.parts import Strict
from services.gateway.http.chat.sampling import Penalty, RepetitionPenalty
from services.gateway.http.chat.schema import Probability
from services.gateway.http.chat.tools.schema import MAX_TOOLS
from services.gateway.http.responses.tools import FlatChoice, FlatTool
from services.gateway.limits import MAX_NAME_CHARS
from services.gateway.realtime.openai.schema import (
    AudioAppend,
    AudioClear,
    AudioCommit,
    ItemCreate,
    ItemDelete,
    ItemRetrieve,
    ItemTruncate,
    Language,
    ResponseCancel,
    unserved,
)

_MAX_PROMPT_CHARS = 4096
Milliseconds = Annotated[int, Field(ge=0, le=10_000)]
Rate = Literal[8000, 16000, 24000, 48000]


def _with_text(modalities: list[str]) -> list[str]:
    if "text" not in modalities:
        problem = 'Invalid modalities. Send ["text"], or ["text", "audio"]: speech comes with its text.'
        raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem})
    return modalities


Modalities = Annotated[list[Literal["text", "audio"]], Field(fail_fast=True, max_length=2), AfterValidator(_with_text)]


class TurnDetection(Strict):
    """`semantic_vad` is what qwen-omni's models have, `smart_turn` what qwen-audio's call it. There as here, the
    threshold and the silence have no effect on it."""

    type: Literal["server_vad", "semantic_vad", "smart_turn"] | None = None
    # No probability: see translate.py.
    threshold: Annotated[float, Field(ge=-1, le=1)] | None = None
    prefix_padding_ms: Milliseconds | None = None
    silence_duration_ms: Milliseconds | None = None
    create_response: bool | None = None
    interrupt_response: bool | None = None
    voiceprint_audio_urls: Annotated[Any, unserved([])] = None


class Corpus(Strict):
    text: Annotated[str, Field(max_length=_MAX_PROMPT_CHARS)] | None = None
    phrases: Annotated[Any, unserved({})] = None


class Transcription(Strict):
    # Any: the session's own model transcribes.
    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    language: Language | None = None
    corpus: Corpus | None = None


class Format(Strict):
    type: Literal["pcm", "pcm16", "pcm24"] | None = None
    sample_rate: Rate | None = None


class AudioInput(Strict):
    format: Format | None = None


class AudioOutput(Strict):
    format: Format | None = None
    voice: str | None = None


class Audio(Strict):
    input: AudioInput | None = None
    output: AudioOutput | None = None


class VideoInput(Strict):
    representation_compact: Annotated[Any, unserved()] = None


class Video(Strict):
    input: VideoInput | None = None


class Options(Strict):
    """What a session and a response have in common."""

    modalities: Modalities | None = None
    instructions: str | None = None
    voice: str | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Probability | None = None
    top_k: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None
    presence_penalty: Penalty | None = None
    repetition_penalty: RepetitionPenalty | None = None
    # -1 = none.
    seed: Annotated[int, Field(ge=-1, le=2**31 - 1)] | None = None
    tools: Annotated[list[FlatTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: FlatChoice | None = None
    enable_search: Annotated[Any, unserved(False)] = None
    search_options: Annotated[Any, unserved({})] = None
    # Speech sounds as it is spoken, which is its default.
    smooth_output: Annotated[Any, unserved(True)] = None


class SessionOptions(Options):
    model: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    input_audio_format: Literal["pcm", "pcm16"] | None = None
    # Of the input.
    sample_rate: Rate | None = None
    output_audio_format: Literal["pcm", "pcm16", "pcm24"] | None = None
    audio: Audio | None = None
    # null = what is said is not transcribed.
    input_audio_transcription: Transcription | None = None
    # null = turns are manual.
    turn_detection: TurnDetection | None = None
    translation: Annotated[Any, unserved()] = None
    video: Video | None = None


class ResponseOptions(Options):
    pass


class _Event(Strict):
    event_id: Annotated[str, Field(max_length=512)] | None = None


class SessionUpdate(_Event):
    type: Literal["session.update"]
    session: SessionOptions


class ResponseCreate(_Event):
    type: Literal["response.create"]
    response: ResponseOptions | None = None


class ImageAppend(_Event):
    """A frame of the user's camera: a JPEG file, base64."""

    type: Literal["input_image_buffer.append"]
    image: str


class SessionFinish(_Event):
    type: Literal["session.finish"]


ClientEvent = Annotated[
    SessionUpdate
    | AudioAppend
    | AudioCommit
    | AudioClear
    | ImageAppend
    | ItemCreate
    | ItemRetrieve
    | ItemDelete
    | ItemTruncate
    | ResponseCreate
    | ResponseCancel
    | SessionFinish,
    Field(discriminator="type"),
]
_EVENT: TypeAdapter[ClientEvent] = TypeAdapter(ClientEvent)


def parse_event(raw: dict[str, Any]) -> ClientEvent:
    """Raise BadInput that names the field as the client wrote it."""
    try:
        return _EVENT.validate_python(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
