"""The fields of POST /v1/audio/transcriptions, /v1/audio/translations and /v1/audio/captions beside the file.

A form has texts only: "0.2" is a number and "true" is true. An empty value stands for none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, ValidationError, model_validator
from pydantic_core import CoreSchema, PydanticCustomError

from services.common.errors import BadInput
from services.common.http.errors import bad_input_from
from services.gateway.http.transcription.languages import LANGUAGES
from services.gateway.limits import MAX_NAME_CHARS

_UNSERVED_FORMATS = {
    "diarized_json": "The server does not tell speakers apart. Send json or text.",
}
_UNSERVED_FIELDS = {
    "include": "The server gives no log probabilities. Leave it out.",
    "known_speaker_names": "The server does not tell speakers apart. Leave it out.",
    "known_speaker_references": "The server does not tell speakers apart. Leave it out.",
    "keywords": "Send them as the prompt.",
    "languages": "Send one language, or none.",
}
# OpenAI's, vLLM's and the SDKs' fields at values that ask for nothing.
_NEUTRAL = {"stream_include_usage": ("true", "false")}


Temperature = Annotated[float, Field(ge=0, le=1)]
_CODES = "ISO 639-1, or 639-3 where there is no other code"


def _enumerated(*values: str | None) -> Callable[[dict[str, Any]], None]:
    """Return what describes a field by its values: their letters' case does not matter, which a schema can't say."""

    def describe(schema: dict[str, Any]) -> None:
        schema.pop("anyOf", None)
        schema.pop("type", None)
        schema["enum"] = list(values)

    return describe


class AudioFields(BaseModel, frozen=True):
    """Of each endpoint that reads an audio. `file` is not among them: it is no text."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = Field(
        default=None, description="may be left out where one model is served"
    )
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = "json"
    temperature: Temperature | None = Field(default=None, description="0 = the most probable text")
    stream: bool = False
    # Extensions, with the names that chat has.
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**63 - 1)] | None = None
    max_tokens: Annotated[int, Field(ge=1, lt=2**32)] | None = None

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the model's schema and, among its properties, the fields that ask for nothing."""
        described = handler(core_schema)
        about = "not served: it passes at these values"
        handler.resolve_ref_schema(described)["properties"] |= {
            name: {"enum": list(values), "description": about} for name, values in _NEUTRAL.items()
        }
        return described


# The model gives a text without times. Those of a recording's pieces are known.
_WITHOUT_TIMES = (
    "The model tells no times. Send chunking_strategy=auto: the recording is cut into pieces then, and their times are"
    " true."
)


class CaptionFields(AudioFields, frozen=True):
    model: Annotated[str, Field(min_length=1, max_length=MAX_NAME_CHARS)] | None = Field(
        default=None, description="a captioner; may be left out where one is served"
    )
    response_format: Literal["json", "text"] = "json"


class SpeechFields(AudioFields, frozen=True):
    language: str | None = Field(
        default=None, description=f"of the audio: {_CODES}", json_schema_extra=_enumerated(*LANGUAGES, None)
    )
    prompt: str = Field(default="", description="what the text may continue, or whose words and style it may have")
    response_format: Literal["json", "text", "verbose_json", "srt", "vtt"] = Field(
        default="json",
        description="verbose_json: with the length of the audio, and, of a recording that is cut, a segment for each"
        " piece. srt, vtt: those segments as subtitles, with `chunking_strategy` alone and without `stream`",
    )
    temperature: Temperature = Field(default=0.0, description="0 = the most probable text")
    chunking_strategy: Literal["auto"] | None = Field(
        default=None,
        description="auto = the recording is cut at quiet moments, and one piece is transcribed after the other; it may"
        " be hours long then. Else all of it is one prompt",
    )
    timestamp_granularities: Literal["segment"] | None = Field(
        default=None, description="of verbose_json with `chunking_strategy`. The times of words are not known"
    )
    antiphon_piece_s: Annotated[float, Field(ge=5, le=3600)] | None = Field(
        default=None,
        description="an extension, with `chunking_strategy`: seconds of a piece at most; the operator bounds it, too",
    )

    @model_validator(mode="after")
    def knows_the_languages(self) -> SpeechFields:
        for name in ("language", "to_language"):
            code = getattr(self, name, None)
            if code is not None and code.lower() not in LANGUAGES:
                problem = f"Invalid '{name}': the model does not know it. Send one of: {', '.join(LANGUAGES)}."
                raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": name})
        return self

    def check_times(self) -> None:
        """Raise BadInput where the request asks for times that are not known."""
        is_cut, is_subtitle = self.chunking_strategy is not None, self.response_format in ("srt", "vtt")
        if is_subtitle and not is_cut:
            value = f"'response_format' cannot be {self.response_format}"
            raise _unsupported("response_format", f"Unsupported value: {value}. {_WITHOUT_TIMES}")
        if is_subtitle and self.stream:
            raise _unsupported("stream", f"Unsupported value: 'stream' has no {self.response_format}. Leave one out.")
        if self.timestamp_granularities is not None and not (is_cut and self.response_format == "verbose_json"):
            problem = f"Unsupported parameter: 'timestamp_granularities'. It is of verbose_json. {_WITHOUT_TIMES}"
            raise _unsupported("timestamp_granularities", problem)
        if self.antiphon_piece_s is not None and not is_cut:
            problem = "Unsupported parameter: 'antiphon_piece_s'. Send chunking_strategy=auto with it, or leave it out."
            raise _unsupported("antiphon_piece_s", problem)


def _unsupported(param: str, problem: str) -> BadInput:
    return BadInput(problem, param=param, code="unsupported_parameter")


class TranscriptionFields(SpeechFields, frozen=True):
    antiphon_preset: Literal["lyrics"] | None = Field(
        default=None, description="an extension: the prompt for a song, in the place of the one for speech"
    )

    @model_validator(mode="after")
    def asks_for_one_thing(self) -> TranscriptionFields:
        if self.antiphon_preset is not None and self.prompt:
            problem = "Invalid 'prompt': a preset has no place for one. Leave out one of them."
            raise PydanticCustomError("invalid_value", "{problem}", {"problem": problem, "param": "prompt"})
        return self


class TranslationFields(SpeechFields, frozen=True):
    to_language: str = Field(
        default="en", description=f"an extension, as vLLM has it: {_CODES}", json_schema_extra=_enumerated(*LANGUAGES)
    )


F = TypeVar("F", bound=AudioFields)


def fields_from(kind: type[F], values: Mapping[str, Sequence[str]]) -> F:
    """Return the fields of a form. Raise BadInput that names the field."""
    raw: dict[str, Any] = {}
    for written, given in values.items():
        name = written.removesuffix("[]")  # as clients write lists
        if name in _UNSERVED_FIELDS:
            raise _unsupported(name, f"Unsupported parameter: '{name}'. {_UNSERVED_FIELDS[name]}")
        if name == "timestamp_granularities" and "word" in given:
            problem = "The times of words are not known. Send segment, or leave it out."
            raise _unsupported(name, f"Unsupported value: '{name}' cannot be word. {problem}")
        if len(given) > 1:
            raise BadInput(f"Invalid '{name[:100]}': it is there twice. Send it once.", param=name[:100])
        if not given[0] or given[0] in _NEUTRAL.get(name, ()):
            continue
        if name in _NEUTRAL:
            instead = " or ".join(_NEUTRAL[name])
            raise BadInput(
                f"Unsupported value: '{name}' is not supported by this server. Leave it out, or send {instead}.",
                param=name,
                code="unsupported_parameter",
            )
        raw[name] = given[0]
    asked = str(raw.get("response_format", ""))
    if (why := _UNSERVED_FORMATS.get(asked)) is not None:
        raise BadInput(
            f"Unsupported value: 'response_format' cannot be {asked}. {why}",
            param="response_format",
            code="unsupported_parameter",
        )
    try:
        fields = kind.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
    if isinstance(fields, SpeechFields):
        fields.check_times()
    return fields
