"""The size of a JPEG file's picture, from its header. Nothing is decoded here: that is preprocess's."""

from __future__ import annotations

import struct

_SIZE = struct.Struct(">HH")
_LENGTH = struct.Struct(">H")
# Of a header, and fill bytes between them.
_MOST_SEGMENTS = 200
# Frame headers, which have the size; other markers of their range are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}


def jpeg_size(data: bytes | bytearray) -> tuple[int, int]:
    """Return (width, height) in pixels. Raise ValueError where the data begins no JPEG file."""
    if data[:3] != b"\xff\xd8\xff":
        raise ValueError("not a JPEG file")
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 9 > len(data) or data[at] != 0xFF:
            break
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _FRAMES:
            height, width = _SIZE.unpack_from(data, at + 5)
            if not height or not width:
                break
            return width, height
        (length,) = _LENGTH.unpack_from(data, at + 2)
        at += 2 + length
    raise ValueError("no picture in the JPEG file's header")
