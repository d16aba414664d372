"""What a JSON body holds, read from its bytes: how many values, and which strings grow when they are parsed.

A body is bounded here before anything is built of it. Parsed, a value takes up to 65 bytes for each of the characters
`, : [ {` outside strings; a wide string, which one emoji makes of any text, takes four bytes a character.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic_core import from_json

from services.common.errors import TooLarge
from services.gateway.limits import MAX_VALUES, text_too_large

Body = bytes | bytearray

# A body may hold a value more for so many bytes: the codes of an answer that is sent back.
BYTES_FOR_ONE_MORE = 128
# Looked through at a time, so that the event loop gets the interpreter between two pieces.
PIECE_BYTES = 1 << 18

_NO_STRUCTURE = bytes(i for i in range(256) if i not in b",:[{")
_ESCAPES = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
_NOT_PLAIN = re.compile(rb"[^ -\[\]-~]")
# Shorter strings take no more than their share of MAX_VALUES: of those with a character beyond ASCII, and of others.
_WIDE_BYTES, _PLAIN_BYTES = 16, 4096
# Longer than the longest string that a field with a limit takes, and than what an error quotes.
_STAND_IN_CHARS = 600


@dataclass(slots=True)
class Outline:
    """`strings`: (start, end) of each that is worth leaving out of a draft, without its quotes."""

    strings: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    # What they take once parsed, at most.
    parsed_bytes: int = 0


def outline_of(body: Body, max_text_bytes: int) -> Outline:
    """Raise TooLarge where the body holds too many values, or more text than `max_text_bytes`.

    What is no JSON is left to the parser.
    """
    outline = Outline()
    text_bytes = 0
    for start, end in _strings(body, MAX_VALUES + len(body) // BYTES_FOR_ONE_MORE):
        if end - start < _WIDE_BYTES:
            continue
        escapes = _count(body, b"\\", start, end)
        pairs = _count(body, b"\\u", start, end) if escapes else 0
        is_wide = pairs > 0 or not _is_ascii(body, start, end)
        if is_wide or end - start >= _PLAIN_BYTES:
            outline.strings.append((start, end))
            outline.parsed_bytes += (end - start) * (4 if is_wide else 1)
        if is_wide:
            text_bytes += end - start - escapes - 4 * pairs  # at least; media is never wide
            if text_bytes > max_text_bytes:
                raise text_too_large(max_text_bytes)
    return outline


def draft_of(body: Body, outline: Outline) -> bytes:
    """Return the same JSON with a short stand-in for each long string: what is wrong with the rest shows in it."""
    pieces: list[bytes | bytearray] = []
    at = 0
    for start, end in outline.strings:
        length = _stand_in_chars(body, start, end)
        head = bytes(body[start : start + length])
        strange = _NOT_PLAIN.search(head)
        pieces += (body[at:start], (head[: strange.start()] if strange else head).ljust(length, b"?"))
        at = end
    return b"".join([*pieces, body[at:]])


def _stand_in_chars(body: Body, start: int, end: int) -> int:
    """Return the string's own length up to _STAND_IN_CHARS: a limit on its length holds for the stand-in too."""
    if end - start > 12 * _STAND_IN_CHARS:  # no character takes more bytes than a pair of escapes
        return _STAND_IN_CHARS
    try:
        return min(len(from_json(body[start - 1 : end + 1])), _STAND_IN_CHARS)
    except ValueError:
        return _STAND_IN_CHARS  # the parser will refuse it


def _is_ascii(body: Body, start: int, end: int) -> bool:
    return all(body[at : min(at + PIECE_BYTES, end)].isascii() for at in range(start, end, PIECE_BYTES))


def _count(body: Body, what: bytes, start: int, end: int) -> int:
    """Return how often `what` occurs; the pieces hide one that lies across two of them."""
    return sum(body.count(what, at, min(at + PIECE_BYTES, end)) for at in range(start, end, PIECE_BYTES))


def _strings(body: Body, max_values: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each string's inside. Raise TooLarge once there are too many values around them."""
    values, strings, at = 0, 0, 0
    while True:
        quote = body.find(b'"', at)
        values += _structure(body, at, quote if quote >= 0 else len(body), max_values)
        strings += 1
        if max(values, strings) > max_values:
            raise _too_many(max_values)
        if quote < 0:
            return
        end = _end_of_string(body, quote + 1)
        if end < 0:
            return
        yield quote + 1, end
        at = end + 1


def _structure(body: Body, start: int, end: int, max_values: int) -> int:
    """Return how many of `, : [ {` stand between two strings."""
    found = 0
    for at in range(start, end, PIECE_BYTES):
        found += len(body[at : min(at + PIECE_BYTES, end)].translate(None, _NO_STRUCTURE))
        if found > max_values:
            raise _too_many(max_values)
    return found


def _end_of_string(body: Body, start: int) -> int:
    """Return where the closing quote is; -1 = nowhere."""
    quote = body.find(b'"', start)
    if quote <= start or body[quote - 1] != ord("\\"):
        return quote
    at = start  # the quote may be an escaped one: read the string from its start
    while match := _ESCAPES.match(body, at, at + PIECE_BYTES):
        if match.end() == at:
            break
        at = match.end()
    return at if body[at : at + 1] == b'"' else -1


def _too_many(max_values: int) -> TooLarge:
    return TooLarge(
        f"The body holds more than {max_values} JSON values. Send fewer messages or parts.", code="too_many_values"
    )
