"""Pictures of every format, mode and depth. Their sibling is one picture of four unlike quarters, as plain PNG."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from io import BytesIO
from typing import Any

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from tests.preprocess.test_files.encode import png
from tests.preprocess.test_files.rows import Picture, Pixels

pillow_heif.register_heif_opener()

_HEIGHT, _WIDTH = 40, 56
_ORIENTATION = 0x0112


def picture() -> Pixels:
    """Return [40, 56, 3]: four flat quarters with a gradient in one, so that each turn of it differs."""
    pixels = np.zeros((_HEIGHT, _WIDTH, 3), np.uint8)
    pixels[:20, :28], pixels[:20, 28:], pixels[20:, :28] = (220, 40, 30), (30, 200, 60), (40, 60, 210)
    pixels[20:, 28:] = (np.arange(28) * 8)[None, :, None]
    return pixels


def grey() -> Pixels:
    return np.asarray(Image.fromarray(picture()).convert("L"))


def grey_rgb() -> Pixels:
    return np.repeat(grey()[:, :, None], 3, axis=2)


def alpha() -> Pixels:
    """Return how opaque each pixel is: half the picture not at all, a band half."""
    values = np.zeros((_HEIGHT, _WIDTH), np.uint8)
    values[:, :28], values[:, 28:32] = 255, 128
    return values


def on_white(pixels: Pixels, opacity: Pixels) -> Pixels:
    share = opacity[:, :, None] / 255
    return np.rint(pixels * share + 255 * (1 - share)).astype(np.uint8)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def of(mode: str, kind: str, **options: Any) -> bytes:
    return saved(Image.fromarray(picture()).convert(mode), kind, **options)


def see_through(mode: str) -> Image.Image:
    image = Image.fromarray(np.dstack((picture(), alpha())))
    return image if mode == "RGBA" else Image.merge("LA", (Image.fromarray(grey()), Image.fromarray(alpha())))


def seen_by_pillow(make: Callable[[], bytes]) -> Pixels:
    """The plain reading of a lossy or rounding format, which transformers and qwen-omni-utils share."""
    return np.asarray(Image.open(BytesIO(make())).convert("RGB"))


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[_ORIENTATION] = orientation
    return tags


def oriented(kind: str, orientation: int, **options: Any) -> bytes:
    return saved(Image.fromarray(picture()), kind, exif=exif(orientation), **options)


# How a picture is shown, by the EXIF standard's own words: where its first row and column are.
TURNS: dict[int, Callable[[Any], Any]] = {
    2: np.fliplr,
    3: lambda p: p[::-1, ::-1],
    4: np.flipud,
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, -1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}


def turned(orientation: int, plain: Callable[[], Pixels] = picture) -> Pixels:
    return np.ascontiguousarray(TURNS[orientation](plain()))


def jpeg() -> Pixels:
    return seen_by_pillow(partial(of, "RGB", "JPEG", quality=95))


def deep(values: Any) -> list[bytes]:
    """Return rows of 16-bit samples, most significant byte first, the lower byte unlike the upper."""
    wide = np.asarray(values, np.uint16) << 8 | 0x5A
    return [row.astype(">u2").tobytes() for row in wide.reshape(_HEIGHT, -1)]


def packed(values: Pixels, depth: int) -> list[bytes]:
    """Return rows of `depth` bits a sample."""
    bits = np.unpackbits(values[:, :, None], axis=2)[:, :, 8 - depth :]
    return [np.packbits(row).tobytes() for row in bits]


def shades(depth: int) -> Pixels:
    return (np.arange(_WIDTH)[None, :] % (1 << depth)).astype(np.uint8).repeat(_HEIGHT, axis=0)


def shades_rgb(depth: int, transparent: int | None = None) -> Pixels:
    scaled = (shades(depth).astype(np.uint16) * 255 // ((1 << depth) - 1)).astype(np.uint8)
    scaled[shades(depth) == (-1 if transparent is None else transparent)] = 255
    return np.repeat(scaled[:, :, None], 3, axis=2)


def palette(transparency: Any, kind: str) -> bytes:
    """Return the letters' picture of a logo: black ink, and a background that is black too, but transparent."""
    image = Image.new("P", (_WIDTH, _HEIGHT))
    image.putpalette([0] * 768)
    image.putdata((alpha() == 255).astype(np.uint8).ravel().tolist())
    return saved(image, kind, transparency=transparency)


def ink() -> Pixels:
    return np.where(alpha()[:, :, None] == 255, 0, 255).astype(np.uint8).repeat(3, axis=2)


def animation(kind: str, **options: Any) -> bytes:
    first, second = Image.fromarray(picture()), Image.new("RGB", (_WIDTH, _HEIGHT), "yellow")
    return saved(first, kind, save_all=True, append_images=[second], duration=100, **options)


def apng_with_a_hidden_picture() -> bytes:
    """Return an APNG whose first picture is only for programs that know no animations."""
    hidden, first = Image.new("RGB", (_WIDTH, _HEIGHT), "yellow"), Image.fromarray(picture())
    return saved(hidden, "PNG", save_all=True, default_image=True, append_images=[first, hidden], duration=100)


def small_first_frame() -> bytes:
    """Return a GIF with a canvas larger than its first frame, and no transparency."""
    data = bytearray(saved(Image.new("L", (8, 8), 0), "GIF"))
    data[6:10] = struct.pack("<HH", 16, 16)
    return bytes(data)


def corner() -> Pixels:
    pixels = np.full((16, 16, 3), 255, np.uint8)
    pixels[:8, :8] = 0
    return pixels


def broken_exif() -> bytes:
    good = oriented("JPEG", 6, quality=95)
    return good.replace(b"MM\0*", b"MM\xff\xff").replace(b"II*\0", b"II\xff\xff")


def lab() -> tuple[bytes, Pixels]:
    to_lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
    image = ImageCms.applyTransform(Image.fromarray(picture()), to_lab)
    assert image is not None
    return saved(image, "TIFF"), picture()


def floats() -> bytes:
    return saved(Image.fromarray(grey().astype(np.float32) / 255), "TIFF")


def integers() -> bytes:
    return saved(Image.fromarray((grey().astype(np.uint32) << 24).view(np.int32)), "TIFF")


def pages() -> bytes:
    second = Image.new("RGB", (_WIDTH, _HEIGHT), "yellow")
    return saved(Image.fromarray(picture()), "TIFF", save_all=True, append_images=[second])


def _lossy(name: str, mode: str, kind: str, **options: Any) -> Picture:
    make = partial(of, mode, kind, **options)
    return Picture(name, make, partial(seen_by_pillow, make))


PICTURES = (
    Picture("png of RGB", partial(of, "RGB", "PNG"), picture),
    Picture("png of L", partial(of, "L", "PNG"), grey_rgb),
    _lossy("png of one bit", "1", "PNG"),
    _lossy("png of a palette", "P", "PNG"),
    Picture("png of 2 bits", lambda: png(packed(shades(2), 2), _WIDTH, 2, 0), partial(shades_rgb, 2)),
    Picture("png of 4 bits", lambda: png(packed(shades(4), 4), _WIDTH, 4, 0), partial(shades_rgb, 4)),
    Picture(
        "png of 2 bits with a transparent grey",
        lambda: png(packed(shades(2), 2), _WIDTH, 2, 0, (b"tRNS", b"\0\1")),
        partial(shades_rgb, 2, 1),
    ),
    Picture(
        "png of 4 bits with a transparent grey",
        lambda: png(packed(shades(4), 4), _WIDTH, 4, 0, (b"tRNS", b"\0\5")),
        partial(shades_rgb, 4, 5),
    ),
    Picture(
        "png of 8 bits with a transparent colour",
        partial(of, "RGB", "PNG", transparency=(220, 40, 30)),
        lambda: np.where((picture() == (220, 40, 30)).all(-1)[:, :, None], 255, picture()).astype(np.uint8),
    ),
    Picture("png of 16-bit grey", lambda: png(deep(grey()), _WIDTH, 16, 0), grey_rgb),
    Picture(
        "png of 16-bit grey with a transparent grey",
        lambda: png(deep(grey()), _WIDTH, 16, 0, (b"tRNS", struct.pack(">H", int(grey()[0, 0]) << 8 | 0x5A))),
        lambda: np.where(grey_rgb() == grey()[0, 0], 255, grey_rgb()).astype(np.uint8),
    ),
    Picture("png of 16-bit RGB", lambda: png(deep(picture()), _WIDTH, 16, 2), picture),
    Picture(
        "png of 16-bit RGB with a transparent colour",
        lambda: png(
            deep(picture()),
            _WIDTH,
            16,
            2,
            (b"tRNS", struct.pack(">3H", *(value << 8 | 0x5A for value in (220, 40, 30)))),
        ),
        lambda: np.where((picture() == (220, 40, 30)).all(-1)[:, :, None], 255, picture()).astype(np.uint8),
    ),
    Picture(
        "png of 16-bit RGBA",
        lambda: png(deep(np.dstack((picture(), alpha()))), _WIDTH, 16, 6),
        lambda: on_white(picture(), alpha()),
        within=1,
    ),
    Picture(
        "png of 16-bit grey with alpha",
        lambda: png(deep(np.dstack((grey(), alpha()))), _WIDTH, 16, 4),
        lambda: on_white(grey_rgb(), alpha()),
        within=1,
    ),
    Picture("png of RGBA", lambda: saved(see_through("RGBA"), "PNG"), lambda: on_white(picture(), alpha()), 1),
    Picture("png of LA", lambda: saved(see_through("LA"), "PNG"), lambda: on_white(grey_rgb(), alpha()), 1),
    Picture("png of a palette with one transparent colour", partial(palette, 0, "PNG"), ink),
    Picture("png of a palette with an alpha for each colour", partial(palette, bytes([0, 255]), "PNG"), ink),
    Picture("png with an orientation", partial(oriented, "PNG", 6), partial(turned, 6)),
    Picture("apng", partial(animation, "PNG"), picture),
    Picture("apng with a hidden picture", apng_with_a_hidden_picture, picture),
    *(
        Picture(f"jpeg of orientation {k}", partial(oriented, "JPEG", k, quality=95), partial(turned, k, jpeg))
        for k in TURNS
    ),
    Picture("jpeg with a broken EXIF", broken_exif, jpeg),
    _lossy("jpeg of grey", "L", "JPEG"),
    _lossy("jpeg of CMYK", "CMYK", "JPEG"),
    _lossy("progressive jpeg", "RGB", "JPEG", progressive=True),
    Picture("gif with transparency", partial(palette, 0, "GIF"), ink),
    _lossy("gif", "P", "GIF"),
    Picture("animated gif", partial(animation, "GIF"), picture, within=12),
    Picture("gif with a first frame smaller than its canvas", small_first_frame, corner),
    Picture("webp", partial(of, "RGB", "WEBP", lossless=True), picture),
    Picture(
        "webp with alpha",
        lambda: saved(see_through("RGBA"), "WEBP", lossless=True, exact=True),
        lambda: on_white(picture(), alpha()),
        within=1,
    ),
    Picture("animated webp", partial(animation, "WEBP", lossless=True), picture),
    Picture("webp with an orientation", partial(oriented, "WEBP", 8, lossless=True), partial(turned, 8)),
    Picture("bmp", partial(of, "RGB", "BMP"), picture),
    Picture("bmp of grey", partial(of, "L", "BMP"), grey_rgb),
    Picture("tiff", partial(of, "RGB", "TIFF"), picture),
    Picture("tiff of LZW", partial(of, "RGB", "TIFF", compression="tiff_lzw"), picture),
    Picture("tiff of Deflate", partial(of, "RGB", "TIFF", compression="tiff_adobe_deflate"), picture),
    _lossy("tiff of CMYK", "CMYK", "TIFF"),
    Picture("tiff of 16-bit grey", lambda: saved(Image.fromarray(grey().astype(np.uint16) << 8), "TIFF"), grey_rgb),
    Picture("tiff of 32-bit grey", integers, grey_rgb),
    Picture("tiff of floats", floats, grey_rgb),
    Picture("tiff of Lab", lambda: lab()[0], lambda: lab()[1], within=6),
    Picture("tiff of RGBA", lambda: saved(see_through("RGBA"), "TIFF"), lambda: on_white(picture(), alpha()), 1),
    Picture("tiff with an orientation", partial(oriented, "TIFF", 6), partial(turned, 6)),
    Picture("tiff of two pages", pages, picture),
    Picture("avif", partial(of, "RGB", "AVIF", quality=100, subsampling="4:4:4"), picture, within=4),
    Picture(
        "avif with alpha",
        lambda: saved(see_through("RGBA"), "AVIF", quality=100, subsampling="4:4:4"),
        lambda: on_white(picture(), alpha()),
        within=6,
    ),
    Picture(
        "avif with an orientation",
        partial(oriented, "AVIF", 6, quality=100, subsampling="4:4:4"),
        partial(turned, 6),
        within=4,
    ),
    Picture("heic", partial(of, "RGB", "HEIF", quality=100, chroma=444), picture, within=6),
    Picture(
        "heic with an orientation",
        lambda: of("RGB", "HEIF", quality=100, chroma=444, exif=exif(6).tobytes()),
        partial(turned, 6),
        within=6,
    ),
    Picture(
        "heic with alpha",
        lambda: saved(see_through("RGBA"), "HEIF", quality=100, chroma=444),
        lambda: on_white(picture(), alpha()),
        within=8,
    ),
)
