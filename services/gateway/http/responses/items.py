"""The items of a response request's input: OpenAI's, those of answers that are sent back included.

Items and their parts may have other fields beside those that are read, as chat's messages may.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, Tag

from services.gateway.http.chat.messages import Either, PlainText
from services.gateway.http.chat.parts import (
    AudioUrlPart,
    FileFields,
    FileId,
    FramesPart,
    InputAudioPart,
    Lenient,
    Pixels,
    VideoUrlPart,
)
from services.gateway.http.chat.tools.schema import FunctionName
from services.gateway.limits import MAX_PARTS

_MAX_ID_CHARS = 256
ItemId = Annotated[str, Field(max_length=_MAX_ID_CHARS)]


def _lacks_type(schema: dict[str, Any]) -> None:
    """Describe an item that may come without its type."""
    schema["required"].remove("type")
    schema["properties"]["type"] = {"enum": [schema["properties"]["type"]["const"], None]}


_UNTYPED = ConfigDict(json_schema_extra=_lacks_type)


class InputText(Lenient):
    type: Literal["input_text"]
    text: str


class InputImage(Lenient):
    """An image at a URL, or a file that was uploaded before."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: FileId | None = Field(
        default=None, description="of a file at /v1/files with the purpose user_data or vision"
    )
    # Accepted and ignored, as in chat.
    detail: Literal["auto", "low", "high", "original"] | None = None
    min_pixels: Pixels | None = None
    max_pixels: Pixels | None = None


class InputFile(FileFields):
    type: Literal["input_file"]
    # Accepted and ignored, as for images.
    detail: Literal["auto", "low", "high"] | None = None


class OutputText(Lenient):
    type: Literal["output_text"]
    text: str


class OutputRefusal(Lenient):
    type: Literal["refusal"]
    refusal: str


UserPart = Annotated[
    InputText | InputImage | InputFile | InputAudioPart | AudioUrlPart | VideoUrlPart | FramesPart,
    Field(discriminator="type"),
]
AssistantPart = Annotated[OutputText | OutputRefusal | InputText, Field(discriminator="type")]
_Texts = Annotated[list[InputText], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
_UserParts = Annotated[list[UserPart], Field(fail_fast=True, min_length=1, max_length=MAX_PARTS), Tag("list")]
_AssistantParts = Annotated[list[AssistantPart], Field(fail_fast=True, max_length=MAX_PARTS), Tag("list")]


class SystemInput(Lenient):
    model_config = _UNTYPED
    type: Literal["message"]
    role: Literal["system", "developer"]
    content: Annotated[PlainText | _Texts, Either]
    id: ItemId | None = None


class UserInput(Lenient):
    model_config = _UNTYPED
    type: Literal["message"]
    role: Literal["user"]
    content: Annotated[PlainText | _UserParts, Either]
    id: ItemId | None = None


class PastAnswer(Lenient):
    """A message of an earlier answer."""

    model_config = _UNTYPED
    type: Literal["message"]
    role: Literal["assistant"]
    content: Annotated[PlainText | _AssistantParts, Either]
    id: ItemId | None = None


class PastCall(Lenient):
    """A call of a tool in an earlier answer."""

    type: Literal["function_call"]
    call_id: ItemId
    name: FunctionName
    # The text of a JSON object; "" = no arguments.
    arguments: str
    id: ItemId | None = None


class CallOutput(Lenient):
    """The result of a call."""

    type: Literal["function_call_output"]
    call_id: ItemId
    output: Annotated[PlainText | _UserParts, Either]
    id: ItemId | None = None


class PastReasoning(Lenient):
    """A chain of thought, which is not part of the history."""

    type: Literal["reasoning"]
    id: ItemId | None = None


class ItemReference(Lenient):
    """An item of an earlier answer that is kept."""

    model_config = _UNTYPED
    type: Literal["item_reference"]
    id: ItemId


def _with_type(value: Any) -> Any:
    """Return an item with its type, which a message and a reference may lack."""
    if not isinstance(value, Mapping) or value.get("type") is not None:
        return value
    if "role" in value:
        return {**value, "type": "message"}
    return {**value, "type": "item_reference"} if "id" in value else value


MessageItem = SystemInput | UserInput | PastAnswer
_Other = PastCall | CallOutput | PastReasoning | ItemReference
# OpenAPI has no discriminator inside of another one: the items are described as alternatives.
Item = Annotated[
    Annotated[Annotated[MessageItem, Field(discriminator="role")] | _Other, Field(discriminator="type")],
    BeforeValidator(_with_type, json_schema_input_type=MessageItem | _Other),
]
