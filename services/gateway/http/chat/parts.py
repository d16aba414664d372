"""The content parts of a message: OpenAI's, and those that DashScope's clients add.

A part may have other fields: clients add them (`cache_control`, `uuid`, `annotations`), and they change nothing here.

Every media field takes an http(s) URL, a data: URL, or a file: URL below the folder that the operator allowed.
`input_audio.data` also takes bare base64, as OpenAI's clients send it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from services.gateway.http.chat.neutral import only
from services.gateway.limits import MAX_FRAMES, MAX_NAME_CHARS

# With more of them, only the first is reported.
MAX_UNKNOWN_FIELDS = 16
Pixels = Annotated[int, Field(ge=1, le=2**31 - 1)]
FramesPerSecond = Annotated[float, Field(gt=0, le=240)]
Nothing = Annotated[Any, only()]
FileId = Annotated[str, Field(max_length=MAX_NAME_CHARS)]


class Strict(BaseModel):
    """Takes JSON types strictly: "0.5" is no number. An unknown field is an error, as with OpenAI."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def has_few_unknown_fields(cls, value: Any) -> Any:
        """Refuse many unknown fields by naming the first. Pydantic would collect an error for each."""
        if isinstance(value, Mapping) and len(value) > len(cls.model_fields) + MAX_UNKNOWN_FIELDS:
            unknown = next(key for key in value if key not in cls.model_fields)
            raise PydanticCustomError("extra_forbidden", "unknown field", {"field": unknown})
        return value


class Lenient(BaseModel):
    """Takes JSON types strictly. Fields that it does not read are ignored: clients and other servers add their own."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)


def _url_object(value: Any) -> Any:
    return {"url": value} if isinstance(value, str) else value


class ImageUrl(Lenient):
    url: str
    # Accepted and ignored: min_pixels and max_pixels choose the resolution.
    detail: Literal["auto", "low", "high", "original"] | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class AudioUrl(Lenient):
    url: str
    format: Annotated[str, Field(max_length=64)] | None = None


class Sampled(Lenient):
    """How the frames of a video are sampled and resized."""

    fps: FramesPerSecond | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None
    total_pixels: Pixels | None = None


class VideoUrl(Sampled):
    """Its sampling counts where the part has none beside it."""

    url: str


class InputAudio(Lenient):
    data: str
    # A hint: the bytes decide.
    format: Annotated[str, Field(max_length=64)] | None = None


class TextPart(Lenient):
    type: Literal["text"]
    text: str


class RefusalPart(Lenient):
    type: Literal["refusal"]
    refusal: str


class ImageUrlPart(Lenient):
    type: Literal["image_url"]
    image_url: Annotated[ImageUrl, BeforeValidator(_url_object, json_schema_input_type=ImageUrl | str)]
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class InputAudioPart(Lenient):
    type: Literal["input_audio"]
    input_audio: InputAudio


class AudioUrlPart(Lenient):
    type: Literal["audio_url"]
    audio_url: Annotated[AudioUrl, BeforeValidator(_url_object, json_schema_input_type=AudioUrl | str)]


class VideoUrlPart(Sampled):
    type: Literal["video_url"]
    video_url: Annotated[VideoUrl, BeforeValidator(_url_object, json_schema_input_type=VideoUrl | str)]


class FileFields(Lenient):
    """A file inside the request, at a URL, or uploaded before. files.py tells what is taken."""

    file_data: str | None = Field(
        default=None, description="a data: URL, or base64 where the filename's ending says what the file holds"
    )
    file_url: str | None = Field(
        default=None,
        description="an http(s) URL of an image, a sound or a video: its ending, or the filename's, says which",
    )
    filename: Annotated[str, Field(max_length=MAX_NAME_CHARS)] | None = None
    file_id: FileId | None = Field(
        default=None,
        description="of a file at /v1/files with the purpose user_data or vision: its name's ending, or the filename's,"
        " says what it holds",
    )


class FilePart(Lenient):
    type: Literal["file"]
    file: FileFields


class FramesPart(Sampled):
    type: Literal["video"]
    video: Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_FRAMES)]


UserPart = Annotated[
    TextPart | ImageUrlPart | InputAudioPart | AudioUrlPart | VideoUrlPart | FramesPart | FilePart,
    Field(discriminator="type"),
]
AssistantPart = Annotated[TextPart | RefusalPart, Field(discriminator="type")]
