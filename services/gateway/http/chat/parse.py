"""Parses the body of a chat request into a checked ChatRequest and the stack's messages."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from pydantic import ValidationError
from pydantic_core import from_json

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput
from services.gateway.http.chat.outline import CHUNK_BYTES, Body, draft_of, outline_of
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import messages_from
from services.gateway.http.errors import bad_input_from
from services.gateway.inline_media import InlineMedia
from services.gateway.limits import check_text_bytes, text_too_large

# A larger body is parsed in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 16
# The characters of base64, and the backslash with which JSON escapes its line breaks and slashes.
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\\"


@dataclass(frozen=True, slots=True)
class ParsedChat:
    chat: ChatRequest
    messages: list[preprocess_pb2.Message]
    inline: InlineMedia


async def read_chat(body: Body, max_media_bytes: int, max_text_bytes: int) -> ParsedChat:
    """Parse `body`. Raise BadInput or TooLarge that names the field as the client wrote it."""
    if len(body) <= _SMALL_BYTES:
        return _read_chat(body, max_media_bytes, max_text_bytes)
    return await asyncio.to_thread(_read_chat, body, max_media_bytes, max_text_bytes)


def _read_chat(body: Body, max_media_bytes: int, max_text_bytes: int) -> ParsedChat:
    if len(body) > max_text_bytes and _more_than_media(body, max_text_bytes):
        raise text_too_large(max_text_bytes)
    if len(body) > _SMALL_BYTES:
        outline = outline_of(body, max_text_bytes)
        if 2 * outline.parsed_bytes > len(body):  # check everything else before building these strings
            messages_from(parse_chat(draft_of(body, outline)), InlineMedia(max_media_bytes))
    chat = parse_chat(body)
    if chat.text_chars > max_text_bytes:
        raise text_too_large(max_text_bytes)
    inline = InlineMedia(max_media_bytes)
    messages = messages_from(chat, inline)
    check_text_bytes(messages, max_text_bytes)
    return ParsedChat(chat, messages, inline)


def _more_than_media(body: Body, max_bytes: int) -> bool:
    """Return whether more than `max_bytes` of the body cannot be base64."""
    other = 0
    for start in range(0, len(body), CHUNK_BYTES):
        other += len(body[start : start + CHUNK_BYTES].translate(None, _BASE64))
        if other > max_bytes:
            return True
    return False


def parse_chat(body: Body) -> ChatRequest:
    """Parse and validate `body`. Raise BadInput that names the field as the client wrote it."""
    try:
        raw: object = from_json(body)
    except ValueError:  # not JSON, not UTF-8, half a surrogate pair, or nested too deep
        raise BadInput(
            "The body is not valid JSON. Send a JSON object in UTF-8.",
            code="invalid_json",
        ) from None
    if not isinstance(raw, dict):
        raise BadInput("The body is not a JSON object. Send a JSON object.", code="invalid_json")
    try:
        return ChatRequest.model_validate(raw)
    except ValidationError as error:
        raise bad_input_from(error, raw) from None
