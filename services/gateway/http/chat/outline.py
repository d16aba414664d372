"""The outline of a JSON body, read from its bytes: how many values it has, and where its long strings are.

It bounds a body before the parser builds anything. A parsed value takes up to 65 bytes for each of the characters
`, : [ {` outside strings. A string with one emoji takes four bytes for each of its characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic_core import from_json

from services.common.errors import TooLarge
from services.gateway.limits import MAX_VALUES, text_too_large

Body = bytes | bytearray

# A large body may hold one more value for so many bytes: an answer that is sent back may have its codec codes.
BYTES_FOR_ONE_MORE = 128
# The scan releases the GIL between two chunks of this size, so that the event loop goes on.
CHUNK_BYTES = 1 << 18

_NO_STRUCTURE = bytes(i for i in range(256) if i not in b",:[{")
_ESCAPES = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
# What a string of JSON would have to escape, and what takes more than a byte.
_NOT_PLAIN = re.compile(r"[^ !#-\[\]-~]")
# Shorter strings matter less than MAX_VALUES allows: those with a character beyond ASCII, and plain ones.
_WIDE_BYTES, _PLAIN_BYTES = 16, 4096
_ASCII_ESCAPES = tuple(b"\\u00%d" % digit for digit in range(8))
_ASCII_ESCAPE = re.compile(rb"\\u00[0-7]")
# Longer than every field's limit on its length, than an error's quote, and than a data: URL is before its base64.
_STAND_IN_CHARS = 1100
# A character takes at most so many bytes: a pair of escapes.
_CHAR_BYTES = 12


@dataclass(slots=True)
class Outline:
    """`strings`: (start, end) of each string that a draft shortens, without its quotes."""

    strings: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    # What they take once parsed, at most.
    parsed_bytes: int = 0


def outline_of(body: Body, max_text_bytes: int) -> Outline:
    """Return the body's outline. Raise TooLarge where it has too many values, or more text than `max_text_bytes`.

    Invalid JSON is left to the parser.
    """
    outline = Outline()
    text_bytes = 0
    for start, end in _strings(body, MAX_VALUES + len(body) // BYTES_FOR_ONE_MORE):
        if end - start < _WIDE_BYTES:
            continue
        escapes = _count(body, b"\\", start, end)
        pairs = _count(body, b"\\u", start, end) if escapes else 0
        # Some clients write the + of base64 as \u002B.
        narrow = _ascii_escapes(body, start, end) if pairs else 0
        is_wide = pairs > narrow or not _is_ascii(body, start, end)
        if is_wide or end - start >= _PLAIN_BYTES:
            outline.strings.append((start, end))
            outline.parsed_bytes += (end - start) * (4 if is_wide else 1)
        if is_wide:
            text_bytes += end - start - escapes - 4 * pairs  # a lower bound; media is never wide
            if text_bytes > max_text_bytes:
                raise text_too_large(max_text_bytes)
    return outline


def draft_of(body: Body, outline: Outline) -> bytes:
    """Return the same JSON with a short stand-in for each long string. Validating it finds what else is wrong."""
    chunks: list[bytes | bytearray] = []
    at = 0
    for start, end in outline.strings:
        chunks += (body[at:start], _stand_in(body, start, end))
        at = end
    return b"".join([*chunks, body[at:]])


def _stand_in(body: Body, start: int, end: int) -> bytes:
    """Return the first characters of the string, so that limits on its length and checks of its head apply as they
    should. Those that take more than a byte, or an escape, are question marks."""
    part = bytes(body[start : min(end, start + _CHAR_BYTES * _STAND_IN_CHARS)])
    for cut in range(min(_CHAR_BYTES, len(part)) + 1):  # the part may end within a character
        try:
            head = str(from_json(b'"%b"' % part[: len(part) - cut]))
        except ValueError:
            continue
        return _NOT_PLAIN.sub("?", head[:_STAND_IN_CHARS]).encode()
    return b"?" * min(len(part), _STAND_IN_CHARS)  # the parser will refuse it


def _is_ascii(body: Body, start: int, end: int) -> bool:
    return all(body[at : min(at + CHUNK_BYTES, end)].isascii() for at in range(start, end, CHUNK_BYTES))


def _ascii_escapes(body: Body, start: int, end: int) -> int:
    """Return how many escapes of ASCII characters there are."""
    if end - start <= _PLAIN_BYTES:  # faster where there are many strings; of a long one the list would be long
        return len(_ASCII_ESCAPE.findall(body, start, end))
    return sum(_count(body, escape, start, end) for escape in _ASCII_ESCAPES)


def _count(body: Body, what: bytes, start: int, end: int) -> int:
    """Return how often `what` occurs, which does not overlap with itself."""
    more = len(what) - 1  # it may begin in one chunk and end in the next
    return sum(body.count(what, at, min(at + CHUNK_BYTES + more, end)) for at in range(start, end, CHUNK_BYTES))


def _strings(body: Body, max_values: int) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of each string, without its quotes. Raise TooLarge once there are too many values."""
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
    """Return how many of `, : [ {` are between `start` and `end`."""
    found = 0
    for at in range(start, end, CHUNK_BYTES):
        found += len(body[at : min(at + CHUNK_BYTES, end)].translate(None, _NO_STRUCTURE))
        if found > max_values:
            raise _too_many(max_values)
    return found


def _end_of_string(body: Body, start: int) -> int:
    """Return the position of the closing quote; -1 = there is none."""
    quote = body.find(b'"', start)
    if quote <= start or body[quote - 1] != ord("\\"):
        return quote
    at = start  # the quote may be escaped: read the string from its start
    while match := _ESCAPES.match(body, at, at + CHUNK_BYTES):
        if match.end() == at:
            break
        at = match.end()
    return at if body[at : at + 1] == b'"' else -1


def _too_many(max_values: int) -> TooLarge:
    return TooLarge(
        f"The body holds more than {max_values} JSON values. Send fewer messages or parts.", code="too_many_values"
    )
