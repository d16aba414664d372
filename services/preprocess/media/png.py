"""What of a PNG is the picture. Browsers read over the rest; Pillow refuses a file for it: for a comment with a wrong
checksum, or for more than 1 MiB of compressed text, which picture generators and editors write."""

from __future__ import annotations

import struct
from collections.abc import Generator
from io import BytesIO

_SIGNATURE_BYTES = 8
# Beside the critical chunks, those with a capital: transparency, animation, orientation.
_SEEN = frozenset({b"tRNS", b"acTL", b"fcTL", b"fdAT", b"eXIf"})


def picture_of(data: bytes) -> bytes:
    """Return a PNG file with only the chunks that are seen: `data` itself where it has no others."""
    if all(_is_seen(name) for name, _, _ in _chunks(data)):
        return data
    view, picture = memoryview(data), BytesIO()
    picture.write(view[:_SIGNATURE_BYTES])
    # No list of them: a file may be of chunks of 12 bytes alone.
    for name, start, end in _chunks(data):
        if _is_seen(name):
            picture.write(view[start:end])
    return picture.getvalue()


def _is_seen(name: bytes) -> bool:
    return name[:1].isupper() or name in _SEEN


def _chunks(data: bytes) -> Generator[tuple[bytes, int, int]]:
    """Yield the name of each chunk, and where it begins and ends. What does not fit into the file is one without a
    name."""
    at, name = _SIGNATURE_BYTES, b""
    while at < len(data) and name != b"IEND":
        if at + 12 > len(data):
            name, end = b"A", len(data)
        else:
            length, name = struct.unpack_from(">I4s", data, at)
            end = at + 12 + length
        yield name, at, end
        at = end
