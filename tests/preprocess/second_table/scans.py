"""BMPs and TIFFs by hand, as scanners and old programs write them."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.preprocess.second_table.quarters import BLUE, GOLD, GREEN, HEIGHT, RED, WIDTH, places, quarters
from tests.preprocess.test_files.pictures import saved
from tests.preprocess.test_files.rows import Pixels

# BMP


def bmp(info: bytes, pixels: bytes, palette: bytes = b"") -> bytes:
    at = 14 + len(info) + len(palette)
    return b"BM" + struct.pack("<IHHI", at + len(pixels), 0, 0, at) + info + palette + pixels


def info(depth: int, compression: int = 0, *, height: int = HEIGHT, colours: int = 0) -> bytes:
    return struct.pack("<IiiHHIIiiII", 40, WIDTH, height, 1, depth, compression, 0, 2835, 2835, colours, 0)


def bottom_up(pixels: npt.NDArray[Any]) -> bytes:
    rows = [row.tobytes() for row in pixels[::-1]]
    return b"".join(row + bytes(-len(row) % 4) for row in rows)


def bgr(alpha: bool = False) -> Pixels:
    swapped = quarters()[:, :, ::-1]
    if not alpha:
        return swapped
    return np.dstack((swapped, quarters((255, 255, 0, 0))))


COLOURS = b"".join(bytes((b, g, r, 0)) for r, g, b in (RED, GREEN, BLUE, GOLD))


def bmp_of_16_bits() -> bytes:
    red, green, blue = (quarters()[:, :, i].astype(np.uint16) for i in range(3))
    masks = struct.pack("<III", 0xF800, 0x07E0, 0x001F)
    packed = red >> 3 << 11 | green >> 2 << 5 | blue >> 3
    return bmp(info(16, 3), bottom_up(packed), masks)


def bmp_with_alpha() -> bytes:
    """Return a BMP of version 4 with a mask for alpha: its lower half is not there."""
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 32, 3, 0, 2835, 2835, 0, 0) + masks + b"BGRs" + bytes(48)
    return bmp(head, bottom_up(bgr(alpha=True)))


def bmp_of_runs() -> bytes:
    """Return a BMP of 8 bits whose rows are runs."""
    rows = [bytes((18, left, 18, right, 0, 0)) for left, right in [(2, 3)] * 12 + [(0, 1)] * 12]
    return bmp(info(8, 1, colours=4), b"".join(rows) + b"\0\1", COLOURS)


def bmp_of_os2() -> bytes:
    return bmp(struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, 24), bottom_up(bgr()))


# TIFF


def tiff(
    strips: Sequence[bytes],
    bits: Sequence[int],
    photometric: int,
    *,
    order: str = "<",
    more: dict[int, Any] | None = None,
) -> bytes:
    """Return an uncompressed TIFF. `more`: further tags of 16-bit numbers."""
    tags: dict[int, tuple[int, Sequence[int]]] = {
        256: (3, (WIDTH,)),
        257: (3, (HEIGHT,)),
        258: (3, tuple(bits)),
        259: (3, (1,)),
        262: (3, (photometric,)),
        273: (4, [0] * len(strips)),
        277: (3, (len(bits),)),
        278: (3, (HEIGHT,)),
        279: (4, [len(strip) for strip in strips]),
        **{tag: (3, values) for tag, values in (more or {}).items()},
    }
    pixels_at = 8
    tags[273] = (4, [pixels_at + sum(map(len, strips[:i])) for i in range(len(strips))])
    body = b"".join(strips)
    directory_at = pixels_at + len(body) + len(body) % 2
    entries, rest = b"", b""
    rest_at = directory_at + 2 + 12 * len(tags) + 4
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"{order}{len(values)}{'HI'[kind == 4]}", *values)
        if len(packed) > 4:
            inline, rest = struct.pack(f"{order}I", rest_at + len(rest)), rest + packed
        else:
            inline = packed.ljust(4, b"\0")
        entries += struct.pack(f"{order}HHI", tag, kind, len(values)) + inline
    begin = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", directory_at)
    count = struct.pack(f"{order}H", len(tags))
    return begin + body.ljust(directory_at - 8, b"\0") + count + entries + bytes(4) + rest


def wide(values: Sequence[Any], kind: str) -> bytes:
    return quarters(values, np.int64).astype(kind).tobytes()


def deep_rgb(order: str) -> bytes:
    colours = [[value << 8 | 0x5A for value in colour] for colour in (RED, GREEN, BLUE, GOLD)]
    return tiff([wide(colours, f"{order}u2")], (16, 16, 16), 2, order=order)


def twelve_bits() -> bytes:
    """Return a TIFF of 12 bits a sample, two in three bytes: 0, 1365, 2730, 4095."""
    levels = quarters((0, 1365, 2730, 4095), np.uint16).reshape(-1, 2).astype(np.uint32)
    pairs = levels[:, 0] << 12 | levels[:, 1]
    return tiff([b"".join(int(pair).to_bytes(3, "big") for pair in pairs)], (12,), 1)


def premultiplied() -> bytes:
    """Return a TIFF whose colours are multiplied by their alpha: half of each."""
    halves = [(*(value // 2 for value in colour), 128) for colour in (RED, GREEN, BLUE, GOLD)]
    return tiff([quarters(halves).tobytes()], (8, 8, 8, 8), 2, more={338: (1,)})


ON_WHITE = places(*((tuple((value + 255) // 2 for value in c)) for c in (RED, GREEN, BLUE, GOLD)))  # pyright: ignore[reportArgumentType]


def planes() -> bytes:
    return tiff([quarters()[:, :, i].tobytes() for i in range(3)], (8, 8, 8), 2, more={284: (2,)})


def tiff_of_palette() -> bytes:
    colours = np.zeros((3, 256), np.uint16)
    colours[:, :4] = np.array((RED, GREEN, BLUE, GOLD)).T * 257
    return tiff([quarters(range(4)).tobytes()], (8,), 3, more={320: colours.ravel().tolist()})


def fax() -> bytes:
    """Return a page of a fax: its top is black."""
    page = Image.fromarray(quarters((0, 0, 255, 255))).convert("1")
    return saved(page, "TIFF", compression="group4")
