"""Pictures of cameras, scanners, editors and games: what they show at places in them."""

from __future__ import annotations

import struct
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import Image, ImageCms, PngImagePlugin

from tests.preprocess.second_table.quarters import (
    BLACK,
    BLUE,
    GOLD,
    GREEN,
    HEIGHT,
    QUARTERS,
    RED,
    TURNED,
    WHITE,
    WIDTH,
    grey_places,
    image,
    places,
    quarters,
)
from tests.preprocess.second_table.rows import Shown
from tests.preprocess.second_table.scans import (
    COLOURS,
    ON_WHITE,
    bgr,
    bmp,
    bmp_of_16_bits,
    bmp_of_os2,
    bmp_of_runs,
    bmp_with_alpha,
    bottom_up,
    deep_rgb,
    fax,
    info,
    planes,
    premultiplied,
    tiff,
    tiff_of_palette,
    twelve_bits,
    wide,
)
from tests.preprocess.test_files.encode import packed_rows, png, png_of
from tests.preprocess.test_files.pictures import exif, saved

# PNG


def header(
    depth: int, colour: int, interlaced: bool = False, size: tuple[int, int] = (HEIGHT, WIDTH)
) -> tuple[bytes, bytes]:
    height, width = size
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))


# Of Adam7: the first row, the first column, and the steps of each pass.
_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def interlaced(pixels: npt.NDArray[Any], depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of seven passes."""
    rows = [
        np.packbits(row).tobytes() if depth == 1 else row.tobytes()
        for top, left, down, right in _PASSES
        for row in pixels[top::down, left::right]
    ]
    return png_of(header(depth, colour, True), *chunks, (b"IDAT", packed_rows(rows)), (b"IEND", b""))


def indexed(depth: int, opacity: bytes = b"") -> bytes:
    """Return a PNG of a palette of four colours."""
    bits = np.unpackbits(quarters(range(4))[:, :, None], axis=2)[:, :, 8 - depth :].reshape(HEIGHT, -1)
    colours = b"".join(map(bytes, (RED, GREEN, BLUE, GOLD)))
    chunks = ((b"PLTE", colours), *([(b"tRNS", opacity)] if opacity else []))
    return png([np.packbits(row).tobytes() for row in bits], WIDTH, depth, 3, *chunks)


def rgb_rows() -> list[bytes]:
    return [row.tobytes() for row in quarters()]


def in_small_chunks() -> bytes:
    """Return a PNG with 3 bytes a chunk of pixels, and an empty one."""
    pixels = packed_rows(rgb_rows())
    parts = [(b"IDAT", pixels[at : at + 3]) for at in range(0, len(pixels), 3)]
    return png_of(header(8, 2), (b"IDAT", b""), *parts, (b"IEND", b""))


def with_long_text() -> bytes:
    """Return a PNG with 3 MB of a picture generator's settings, compressed, as editors write them."""
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "settings " * 350_000, zip=True)
    text.add_text("workflow", "node " * 600_000, zip=True)
    return saved(image(), "PNG", pnginfo=text)


def with_broken_text() -> bytes:
    """Return a PNG with a comment of a wrong checksum: browsers read over it."""
    good = png(rgb_rows(), WIDTH, 8, 2, (b"tEXt", b"Comment\0made by a scanner"))
    return good.replace(b"made by a scanner", b"made by A scanner")


def turned_behind_the_pixels() -> bytes:
    tags = exif(6).tobytes().removeprefix(b"Exif\0\0")
    return png_of(header(8, 2), (b"IDAT", packed_rows(rgb_rows())), (b"eXIf", tags), (b"IEND", b""))


# JPEG


def joined(kind: str, **options: Any) -> bytes:
    second = Image.new("RGB", (WIDTH, HEIGHT), "yellow")
    return saved(image(), kind, save_all=True, append_images=[second], **options)


def cmyk(kind: str, **options: Any) -> bytes:
    """Return a picture of inks: red, green, blue and half of black."""
    inks = quarters([(0, 255, 255, 0), (255, 0, 255, 0), (255, 255, 0, 0), (0, 0, 0, 128)])
    return saved(Image.fromarray(inks, "CMYK"), kind, **options)


INKS = places((255, 0, 0), (0, 255, 0), (0, 0, 255), (127, 127, 127))


# GIF


def offset_frame() -> bytes:
    """Return a GIF of 36 × 24 with a first frame of 18 × 12 in the middle, and nothing around it."""
    data = bytearray(saved(Image.new("L", (18, 12), 0), "GIF"))
    data[6:10] = struct.pack("<HH", WIDTH, HEIGHT)
    at = data.index(b"\x2c\0\0\0\0")
    data[at + 1 : at + 5] = struct.pack("<HH", 9, 6)
    return bytes(data)


# HEIF and AVIF


def second_is_first() -> bytes:
    """Return a HEIC of two pictures, of which the second is the one to show."""
    file = pillow_heif.HeifFile()
    file.add_from_pillow(Image.new("RGB", (WIDTH, HEIGHT), "yellow"))
    file.add_from_pillow(image())
    out = BytesIO()
    file.save(out, quality=100, chroma=444, primary_index=1)
    return out.getvalue()


def ten_bits(kind: str) -> bytes:
    """Return a HEIC or AVIF of more than 8 bits."""
    values = quarters().astype(np.uint16) * 257
    file = pillow_heif.from_bytes("RGB;16", (WIDTH, HEIGHT), values.tobytes())
    out = BytesIO()
    file.save(out, quality=100, chroma=444, format=kind)
    return out.getvalue()


def profiled(kind: str, **options: Any) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return saved(image(), kind, icc_profile=profile, **options)


def one_pixel(kind: str) -> bytes:
    return saved(Image.new("RGB", (1, 1), BLUE), kind)


def see_through_animation() -> bytes:
    """Return a WebP whose first frame fills only the left half."""
    frame = quarters((RED, WHITE, BLUE, WHITE))
    opacity = quarters((255, 0, 255, 0))
    first = Image.fromarray(np.dstack((frame, opacity)))
    return saved(first, "WEBP", save_all=True, append_images=[image("RGBA")], lossless=True, duration=50)


LUMA = grey_places(82, 118, 60, 198)

SHOWN = (
    Shown("interlaced png", lambda: interlaced(quarters(), 8, 2), QUARTERS),
    Shown(
        "interlaced png of 16 bits",
        lambda: interlaced(np.repeat(quarters(), 2, axis=2), 16, 2),
        QUARTERS,
    ),
    Shown(
        "interlaced png of one bit with a transparent black",
        lambda: interlaced(quarters((1, 0, 0, 1)), 1, 0, (b"tRNS", b"\0\0")),
        places(WHITE, WHITE, WHITE, WHITE),
    ),
    Shown("png of a palette of 2 bits", partial(indexed, 2), QUARTERS),
    Shown(
        "png of a palette of 4 bits, two colours transparent",
        partial(indexed, 4, b"\0\xff\0"),
        places(WHITE, GREEN, WHITE, GOLD),
    ),
    Shown(
        "png of a palette half transparent",
        partial(indexed, 8, b"\x80\xff"),
        places((227, 142, 147), GREEN, BLUE, GOLD),
        within=1,
    ),
    Shown("png with a gamma", lambda: png(rgb_rows(), WIDTH, 8, 2, (b"gAMA", struct.pack(">I", 100_000))), QUARTERS),
    Shown("png with a colour profile", partial(profiled, "PNG"), QUARTERS),
    Shown("png in chunks of 3 bytes", in_small_chunks, QUARTERS),
    Shown("png with megabytes of text", with_long_text, QUARTERS),
    Shown("png with a broken comment", with_broken_text, QUARTERS),
    Shown("png with a file behind it", lambda: saved(image(), "PNG") + b"PK\3\4" + bytes(900), QUARTERS),
    Shown("png with an orientation behind its pixels", turned_behind_the_pixels, TURNED, (WIDTH, HEIGHT)),
    Shown("png of one pixel", partial(one_pixel, "PNG"), {(0, 0): BLUE}, (1, 1)),
    Shown("jpeg of one pixel", partial(one_pixel, "JPEG"), {(0, 0): BLUE}, (1, 1), within=4),
    Shown("webp of one pixel", partial(one_pixel, "WEBP"), {(0, 0): BLUE}, (1, 1), within=12),
    Shown("jpeg of 4:2:0", lambda: saved(image(), "JPEG", quality=95, subsampling=2), QUARTERS, within=4),
    Shown(
        "jpeg that is not converted from RGB",
        lambda: saved(image(), "JPEG", quality=95, keep_rgb=True),
        QUARTERS,
        within=3,
    ),
    Shown("jpeg of inks", lambda: cmyk("JPEG", quality=98), INKS, within=6),
    Shown(
        "jpeg with a restart marker a row",
        lambda: saved(image(), "JPEG", quality=95, restart_marker_rows=1),
        QUARTERS,
        within=4,
    ),
    Shown("jpeg with a colour profile", lambda: profiled("JPEG", quality=95), QUARTERS, within=4),
    Shown("jpeg of two pictures of a phone", lambda: joined("MPO", quality=95), QUARTERS, within=4),
    Shown(
        "jpeg with a film behind it",
        lambda: saved(image(), "JPEG", quality=95) + b"\0\0\0\x18ftypmp42" + bytes(99),
        QUARTERS,
        within=4,
    ),
    Shown("jpeg of orientation 0", lambda: saved(image(), "JPEG", quality=95, exif=exif(0)), QUARTERS, within=4),
    Shown("jpeg of orientation 9", lambda: saved(image(), "JPEG", quality=95, exif=exif(9)), QUARTERS, within=4),
    Shown(
        "progressive jpeg that is turned",
        lambda: saved(image(), "JPEG", quality=95, progressive=True, exif=exif(6)),
        TURNED,
        (WIDTH, HEIGHT),
        within=4,
    ),
    Shown("interlaced gif", lambda: saved(image().quantize(4), "GIF", interlace=1), QUARTERS),
    Shown("gif without an end", lambda: saved(image().quantize(4), "GIF").removesuffix(b";"), QUARTERS),
    Shown("gif with a frame in the middle", offset_frame, {(2, 2): WHITE, (12, 18): BLACK, (22, 34): WHITE}),
    Shown("animated webp that begins with a half", see_through_animation, places(RED, WHITE, BLUE, WHITE)),
    Shown("lossy webp", lambda: saved(image(), "WEBP", quality=95), QUARTERS, within=8),
    Shown("bmp of 4 colours", lambda: bmp(info(8, colours=4), bottom_up(quarters(range(4))), COLOURS), QUARTERS),
    Shown("bmp from the top down", lambda: bmp(info(24, height=-HEIGHT), bottom_up(bgr()[::-1])), QUARTERS),
    Shown("bmp of 16 bits", bmp_of_16_bits, QUARTERS, within=8),
    Shown(
        "bmp of 32 bits, the last ones 0",
        lambda: bmp(info(32), bottom_up(np.dstack((bgr(), quarters((0, 0, 0, 0)))))),
        QUARTERS,
    ),
    Shown("bmp with alpha", bmp_with_alpha, places(RED, GREEN, WHITE, WHITE)),
    Shown("bmp of runs", bmp_of_runs, QUARTERS),
    Shown("bmp of OS/2", bmp_of_os2, QUARTERS),
    Shown("tiff of 16-bit RGB", lambda: deep_rgb("<"), QUARTERS),
    Shown("tiff of 16-bit RGB, the other way round", lambda: deep_rgb(">"), QUARTERS),
    Shown(
        "tiff of 16-bit grey, the other way round",
        lambda: tiff([wide((0, 21845, 43690, 65535), ">u2")], (16,), 1, order=">"),
        grey_places(0, 85, 170, 255),
    ),
    Shown(
        "tiff of signed 16-bit grey",
        lambda: tiff([wide((-32768, -10923, 10922, 32767), "<i2")], (16,), 1, more={339: (2,)}),
        grey_places(0, 85, 170, 255),
    ),
    Shown("tiff of 12-bit grey", twelve_bits, grey_places(0, 85, 170, 255)),
    Shown(
        "tiff whose 0 is white",
        lambda: tiff([quarters((0, 85, 170, 255)).tobytes()], (8,), 0),
        grey_places(255, 170, 85, 0),
    ),
    Shown("tiff of planes", planes, QUARTERS),
    Shown("tiff of a palette", tiff_of_palette, QUARTERS),
    Shown("tiff of colours times alpha", premultiplied, ON_WHITE, within=2),
    Shown("tiff of a fax", fax, places(BLACK, BLACK, WHITE, WHITE)),
    Shown("tiff of JPEG", lambda: saved(image(), "TIFF", compression="jpeg", quality=95), QUARTERS, within=4),
    Shown("tiff of PackBits", lambda: saved(image(), "TIFF", compression="packbits"), QUARTERS),
    Shown("big tiff", lambda: saved(image(), "TIFF", big_tiff=True), QUARTERS),
    Shown("avif of grey", lambda: saved(image("L"), "AVIF", quality=100), LUMA, within=3),
    Shown("animated avif", lambda: joined("AVIF", quality=100, subsampling="4:4:4"), QUARTERS, within=4),
    Shown("avif of 4:2:0", lambda: saved(image(), "AVIF", quality=95, subsampling="4:2:0"), QUARTERS, within=6),
    Shown("heic whose second picture is the first", second_is_first, QUARTERS, within=5),
    Shown("heic of more than 8 bits", partial(ten_bits, "HEIF"), QUARTERS, within=5),
    Shown("heic of grey", lambda: saved(image("L"), "HEIF", quality=100), LUMA, within=4),
)
