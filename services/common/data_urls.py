"""data: URLs and their base64, as recorders, editors and command-line tools write them."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

# Where its base64 begins must stand within so many characters of a data: URL.
_LONGEST_HEAD = 1024
_MARK = re.compile(r"; *base64 *,", re.IGNORECASE)
# Decoding releases the GIL between two chunks of this size. A multiple of four characters.
_CHUNK_CHARS = 1 << 20
_WHITESPACE = str.maketrans("", "", " \t\r\n")


def split_data_url(url: str) -> tuple[str, int] | None:
    """Return a data: URL's media type in lower case, and where its base64 begins; None where it has no base64.

    Its parameters may hold commas, and even the mark: the last one counts, as base64 has no semicolon.
    """
    marks = list(_MARK.finditer(url, 0, _LONGEST_HEAD))
    if not marks:
        return None
    media_type = url[len("data:") : marks[-1].start()].partition(";")[0].strip().lower()
    return media_type, marks[-1].end()


def decode_base64(text: str, start: int = 0) -> bytearray:
    """Decode `text` from `start` on: the standard or the URL-safe alphabet, with padding or none. Whitespace is
    skipped. Raise ValueError."""
    decoded = bytearray()
    for chunk in _decoded_chunks(text, start):
        decoded += chunk
    return decoded


def _decoded_chunks(text: str, start: int) -> Iterator[bytes]:
    rest, padded = "", False
    for at in range(start, len(text), _CHUNK_CHARS):
        chunk = rest + text[at : at + _CHUNK_CHARS]
        if any(space in chunk for space in " \t\r\n"):
            chunk = chunk.translate(_WHITESPACE)
        chunk = chunk.replace("-", "+").replace("_", "/")
        whole = len(chunk) // 4 * 4
        chunk, rest = chunk[:whole], chunk[whole:]
        if chunk and (padded or "=" in chunk[:-2]):
            raise ValueError("base64 goes on after its padding")
        padded = chunk.endswith("=")
        yield binascii.a2b_base64(chunk, strict_mode=True)
    if rest:
        if padded or "=" in rest:
            raise ValueError("base64 ends within a group")
        yield binascii.a2b_base64(rest + "=" * (4 - len(rest)), strict_mode=True)
