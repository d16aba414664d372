"""The size of a JPEG file's picture, from its header. Nothing is decoded here: that is preprocess's."""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from contextlib import suppress

_SIZE = struct.Struct(">HH")
_LENGTH = struct.Struct(">H")
# Of a header, and fill bytes between them.
_MOST_SEGMENTS = 200
# Frame headers, which have the size; other markers of their range are tables.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1, _SCAN = 0xE1, 0xDA
_END = b"\xff\xd9"
# What APP1 holds: which way up the picture is, in either. EXIF goes before.
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_ORIENTATION = 0x0112
# EXIF is a TIFF file: its byte orders, and its types of one number.
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}
_NUMBERS = {3: "H", 4: "I"}
# Orientations of a picture that lies on its side.
_ASIDE = frozenset({5, 6, 7, 8})


def jpeg_size(data: bytes | bytearray) -> tuple[int, int]:
    """Return (width, height) in pixels of the picture as preprocess has it: upright. Raise ValueError where the data is
    no JPEG file, or is cut."""
    if data[:3] != b"\xff\xd8\xff":
        raise ValueError("not a JPEG file")
    width = height = 0
    exif = xmp = b""
    scan = len(data)
    for marker, start, end in _segments(data):
        if marker in _FRAMES and start + 5 <= end:
            height, width = _SIZE.unpack_from(data, start + 1)
        elif marker == _APP1 and data.startswith(_EXIF, start):
            exif = exif or bytes(data[start + len(_EXIF) : end])
        elif marker == _APP1 and data.startswith(_XMP, start):
            xmp = bytes(data[start:end])
        elif marker == _SCAN:
            scan = start
    if not width or not height:
        raise ValueError("no picture in the JPEG file's header")
    if data.find(_END, scan) < 0:  # the header may hold a small picture, and its end
        raise ValueError("the JPEG file has no end")
    return (height, width) if _orientation(exif, xmp) in _ASIDE else (width, height)


def _segments(data: bytes | bytearray) -> Generator[tuple[int, int, int]]:
    """Yield the marker of each segment of the header, the first scan's as the last one, and where its data begins and
    ends."""
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(data) or data[at] != 0xFF:
            return
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        (length,) = _LENGTH.unpack_from(data, at + 2)
        end = at + 2 + length
        if end > len(data):
            return
        yield marker, at + 4, end
        if marker == _SCAN:
            return
        at = end


def _orientation(exif: bytes, xmp: bytes) -> int:
    """Return which way up the picture is, 1 to 8 where that is said and right."""
    if (orientation := _exif_orientation(exif)) is not None:
        return orientation
    found = _XMP_ORIENTATION.search(xmp)
    return int(found[1]) if found is not None else 1


def _exif_orientation(tiff: bytes) -> int | None:
    order, orientation = _BYTE_ORDERS.get(tiff[:4]), None
    if order is None:
        return None
    with suppress(struct.error):  # where it is cut, what came before counts
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(order + "HHI", tiff, entry)
            if tag == _ORIENTATION and count == 1 and kind in _NUMBERS:
                (orientation,) = struct.unpack_from(order + _NUMBERS[kind], tiff, entry + 8)
    return orientation
