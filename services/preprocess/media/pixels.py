"""A decoded picture of any mode → the RGB that a browser shows on a white page.

transformers and qwen-omni-utils agree on most modes, and there the pixels are theirs. docs/media.md lists where not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

# EXIF's tag, and TIFF's: bits of each sample, and what they mean.
_ORIENTATION = 0x0112
_BITS, _SAMPLE_FORMAT = 258, 339
_SIGNED = 2
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_WHITE = (255, 255, 255)
_LAB = ImageCms.createProfile("LAB")
_SRGB = ImageCms.createProfile("sRGB")


def to_pixels(image: Image.Image) -> npt.NDArray[np.uint8]:
    """Return [height, width, 3] of the image's first frame: upright, transparent pixels laid on white. The frame is
    decoded here, and the image is closed: its memory is free before the next copy is made."""
    if getattr(image, "default_image", False):  # a PNG's picture for programs that do not know animations
        image.seek(1)
    box = _frame_box(image)
    _scale_transparent_colour(image)
    image.load()
    turn = orientation(image)
    seen = to_rgb(image)
    if seen is not image:
        image.close()
    if box is not None:
        seen = _on_canvas(seen, box)
    return np.array(turned(seen, turn))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return an RGB image, `image` itself where it is one. Deep greys keep their upper 8 bits: Pillow would cut them
    off at 255."""
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_rgb(image)
    if image.mode == "LAB":
        return ImageCms.profileToProfile(image, _LAB, _SRGB, outputMode="RGB") or image.convert("RGB")
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    see_through = image if image.mode == "RGBA" else image.convert("RGBA")
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(see_through, mask=see_through.getchannel("A"))
    return white


def orientation(image: Image.Image) -> int:
    """Return the image's EXIF orientation, 1 to 8; 1 where it has none or its EXIF is broken."""
    try:
        value: Any = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # what Pillow raises for broken EXIF is of any kind; a browser shows such a picture as it is
        value = 1
    return value if value in _TURNS else 1


def turned(image: Image.Image, orientation: int) -> Image.Image:
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    """The upper 8 bits of 12, 16 and unsigned 32, as Pillow itself reads 16-bit colours. Of signed 16 bits the least is
    black. Floats: 0 is black and 1 is white."""
    values, bits = np.asarray(image), _tag(image, _BITS, 16)
    if image.mode == "F":
        grey = np.rint(np.clip(np.nan_to_num(values), 0, 1) * 255)
    elif image.mode == "I" and bits > 16:
        grey = np.ascontiguousarray(values, np.int32).view(np.uint32) >> 24
    elif _tag(image, _SAMPLE_FORMAT, 1) == _SIGNED:
        grey = values.astype(np.int32) + 0x8000 >> 8
    else:
        grey = values.astype(np.uint16) >> (min(bits, 16) - 8)
    seen = Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        seen.paste(_WHITE, mask=Image.fromarray(values == transparent))
    return seen


def _tag(image: Image.Image, number: int, otherwise: int) -> int:
    """Return a TIFF's tag, of the first sample; `otherwise` where there is none, and for other formats."""
    tags: Any = getattr(image, "tag_v2", {})
    value = tags.get(number, otherwise)
    return value[0] if isinstance(value, tuple) else value


def _scale_transparent_colour(image: Image.Image) -> None:
    """Give a PNG's one transparent colour the scale of the decoded pixels, which have 8 bits where the file has 2, 4 or
    16 a sample. Its decoder's arguments say which, before it runs."""
    transparent: Any = image.info.get("transparency")
    raw_mode = _tile(image)[3] if image.format == "PNG" else None
    if raw_mode in ("L;2", "L;4") and isinstance(transparent, int):
        image.info["transparency"] = transparent * (85 if raw_mode == "L;2" else 17)
    elif raw_mode == "RGB;16B" and isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value >> 8 for value in transparent)


def _tile(image: Image.Image) -> Any:
    """Return what the image's decoder is told: its name, the box it fills, where its data is, and its arguments."""
    tiles: Any = getattr(image, "tile", ())
    return tiles[0] if tiles else (None, None, None, None)


def _frame_box(image: Image.Image) -> tuple[int, int, int, int] | None:
    """Return where a GIF's first frame lies, where it does not fill the canvas."""
    box: Any = _tile(image)[1] if image.format == "GIF" else None
    return None if box is None or tuple(box) == (0, 0, *image.size) else tuple(box)


def _on_canvas(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Return a frame on a white canvas: a browser shows nothing around it, Pillow the palette's first colour."""
    white = Image.new("RGB", image.size, _WHITE)
    white.paste(image.crop(box), box)
    return white
