"""Parses the body of a chat request into a checked ChatRequest and the stack's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pydantic import BaseModel

from services.gateway.http.chat.outline import CHUNK_BYTES, Body, draft_of, outline_of
from services.gateway.http.chat.schema import ChatRequest
from services.gateway.http.chat.translate import check_past_calls, messages_from
from services.gateway.http.json_body import parse_json
from services.gateway.inline_media import InlineMedia
from services.gateway.limits import check_text_bytes, text_too_large
from services.gateway.turn.conversation import Message

# A larger body is parsed in a thread, so that the event loop goes on.
_SMALL_BYTES = 1 << 16
# The characters of base64, and the backslash with which JSON escapes its line breaks and slashes.
_BASE64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/-_=\\"

R = TypeVar("R", bound=BaseModel)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Reading(Generic[R, T]):
    """How the body of a kind of request is read."""

    kind: type[R]
    # Makes what the turn needs. It may run twice: first with a draft of the request, whose long strings are cut and
    # whose media is thrown away.
    translate: Callable[[R, InlineMedia], T]
    # Checks that, but not what is made of a draft.
    check: Callable[[T], None]
    # Characters of text in the request: at most as many bytes as they take in UTF-8.
    text_chars: Callable[[R], int]


@dataclass(frozen=True, slots=True)
class ParsedChat:
    chat: ChatRequest
    messages: list[Message]
    inline: InlineMedia


async def read_chat(body: Body, max_media_bytes: int, max_text_bytes: int) -> ParsedChat:
    """Parse `body`. Raise BadInput or TooLarge that names the field as the client wrote it."""
    chat, messages, inline = await read_request(body, _CHAT, max_media_bytes, max_text_bytes)
    check_text_bytes(messages, max_text_bytes)
    return ParsedChat(chat, messages, inline)


async def read_request(
    body: Body, reading: Reading[R, T], max_media_bytes: int, max_text_bytes: int
) -> tuple[R, T, InlineMedia]:
    """Return the request, what the turn needs of it, and its inline media. A large body is read in a thread.

    Raise BadInput or TooLarge that names the field as the client wrote it.
    """

    def media(*, is_draft: bool = False) -> InlineMedia:
        return InlineMedia(max_media_bytes, takes_uploads=True, is_draft=is_draft)

    def read() -> tuple[R, T, InlineMedia]:
        if len(body) > max_text_bytes and _more_than_media(body, max_text_bytes):
            raise text_too_large(max_text_bytes)
        if len(body) > _SMALL_BYTES:
            outline = outline_of(body, max_text_bytes)
            if 2 * outline.parsed_bytes > len(body):  # check everything else before building these strings
                reading.translate(parse_json(draft_of(body, outline), reading.kind), media(is_draft=True))
        request = parse_json(body, reading.kind)
        if reading.text_chars(request) > max_text_bytes:
            raise text_too_large(max_text_bytes)
        inline = media()
        made = reading.translate(request, inline)
        reading.check(made)
        return request, made, inline

    return await asyncio.to_thread(read) if len(body) > _SMALL_BYTES else read()


def _more_than_media(body: Body, max_bytes: int) -> bool:
    """Return whether more than `max_bytes` of the body cannot be base64."""
    other = 0
    for start in range(0, len(body), CHUNK_BYTES):
        other += len(body[start : start + CHUNK_BYTES].translate(None, _BASE64))
        if other > max_bytes:
            return True
    return False


_CHAT = Reading(ChatRequest, messages_from, check_past_calls, lambda chat: chat.text_chars)
