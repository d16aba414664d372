"""Translates the items of a response request into the domain's messages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from services.common.errors import BadInput
from services.gateway.http.chat.files import file_part
from services.gateway.http.chat.translate import check_past_calls, part_from
from services.gateway.http.responses.items import (
    AssistantPart,
    CallOutput,
    InputFile,
    InputImage,
    InputText,
    Item,
    ItemReference,
    OutputRefusal,
    OutputText,
    PastAnswer,
    PastCall,
    PastReasoning,
    UserPart,
)
from services.gateway.http.responses.schema import ResponseRequest
from services.gateway.inline_media import InlineMedia, UploadedMedia
from services.gateway.turn.conversation import ImagePart, MediaSource, Message, Part, TextPart, ToolCall


@dataclass(frozen=True, slots=True)
class Referred:
    """A place where an item that is kept comes in. `path`: where the client wrote its id."""

    path: str
    id: str


# In the input's order. An answer and its calls are messages of their own until `join_calls`.
Pieces = list[Message | Referred]


def pieces_from(request: ResponseRequest, inline: InlineMedia) -> Pieces:
    """Return the input's messages and references. Media inside the request is added to `inline`.

    Raise BadInput or TooLarge that names the part.
    """
    if isinstance(request.input, str):
        return [Message("user", [TextPart("input", request.input)])]
    return pieces_of(request.input or (), "input", inline)


def pieces_of(items: Sequence[Item], path: str, inline: InlineMedia) -> Pieces:
    """Return what the items at `path` say to the model: a chain of thought nothing."""
    pieces = (piece_of(item, f"{path}[{i}]", inline) for i, item in enumerate(items))
    return [piece for piece in pieces if piece is not None]


def check_calls(pieces: Pieces) -> None:
    check_past_calls(messages_in(pieces), "arguments")


def messages_in(pieces: Pieces) -> list[Message]:
    return [piece for piece in pieces if isinstance(piece, Message)]


def piece_of(item: Item, path: str, inline: InlineMedia) -> Message | Referred | None:
    match item:
        case PastReasoning():
            return None
        case ItemReference():
            return Referred(f"{path}.id", item.id)
        case PastCall():
            return Message("assistant", (), (ToolCall(path, item.call_id, item.name, item.arguments or "{}"),))
        case CallOutput():
            parts = _parts(item.output, f"{path}.output", inline)
            return Message("tool", parts, tool_call_id=item.call_id)
        case PastAnswer():
            return Message("assistant", _parts(item.content, f"{path}.content", inline))
        case _:
            role = "user" if item.role == "user" else "system"
            return Message(role, _parts(item.content, f"{path}.content", inline))


def _parts(content: str | Sequence[UserPart | AssistantPart], path: str, inline: InlineMedia) -> list[Part]:
    if isinstance(content, str):
        return [TextPart(path, content)]
    return [_part(part, f"{path}[{j}]", inline) for j, part in enumerate(content)]


def _part(part: UserPart | AssistantPart, path: str, inline: InlineMedia) -> Part:
    match part:
        case InputText() | OutputText():
            return TextPart(path, part.text)
        case OutputRefusal():
            return TextPart(path, part.refusal)
        case InputFile():
            return file_part(part, path, path, inline)
        case InputImage():
            source = _image_source(part, path, inline)
            return ImagePart(path, source, min_pixels=part.min_pixels, max_pixels=part.max_pixels)
        case _:
            return part_from(part, path, inline)


def _image_source(image: InputImage, path: str, inline: InlineMedia) -> MediaSource:
    if image.image_url is not None and image.file_id is not None:
        raise BadInput(f"Invalid '{path}': send one of image_url and file_id.", param=path)
    if image.file_id is not None:
        return inline.uploaded_file(UploadedMedia(f"{path}.file_id", id=image.file_id))
    if image.image_url is None:
        param = f"{path}.image_url"
        raise BadInput(
            f"Missing required parameter: '{param}', or 'file_id' beside it.",
            param=param,
            code="missing_required_parameter",
        )
    return inline.source(image.image_url, f"{path}.image_url")
