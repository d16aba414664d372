"""Image files → RGB pixels."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pillow_heif
from PIL import AvifImagePlugin, Image

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import IMAGE_FORMATS, IMAGE_NAMES, require_content, sniff
from services.preprocess.media.pixels import to_pixels
from services.preprocess.media.png import picture_of
from services.preprocess.media.problems import MediaProblem, invalid, too_large

PIL_FORMATS = ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF")
# Longest side over shortest: more is refused by the model's resize.
MAX_RATIO = 200

Image.MAX_IMAGE_PIXELS = None  # the operator's limit is checked here, on the header
# A place decodes on one processor, and the stacks of threads would count as its memory.
pillow_heif.options.DECODE_THREADS = 1
AvifImagePlugin.DEFAULT_MAX_THREADS = 1
pillow_heif.register_heif_opener()


def decode_image(data: bytes, limits: MediaLimits) -> npt.NDArray[np.uint8]:
    """Return [height, width, 3] of the first frame, as a browser shows it on a white page. Raise MediaProblem."""
    with _opened(data, limits) as image:
        return to_pixels(image)


def read_size(data: bytes, limits: MediaLimits) -> tuple[int, int]:
    """Return (width, height) from the file's header, before the picture is turned upright. Raise MediaProblem as
    `decode_image`."""
    with _opened(data, limits) as image:
        return image.size


@contextmanager
def _opened(data: bytes, limits: MediaLimits) -> Generator[Image.Image]:
    """The image, its header read and checked. What its decoder raises inside becomes a MediaProblem."""
    require_content(data)
    kind = sniff(data)
    if kind not in IMAGE_FORMATS:
        found = f"The file is {kind}, not an image." if kind else "The file has no known image format."
        raise invalid(f"{found} Send {IMAGE_NAMES}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            picture = picture_of(data) if kind == "png" else data
            with Image.open(BytesIO(picture), formats=PIL_FORMATS) as image:
                _check_size(image.width, image.height, limits)
                yield image
    except MediaProblem:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything for broken files
        if is_exhaustion(error):
            raise
        raise invalid(f"The {kind} image is broken.") from None


def _check_size(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.image_pixels:
        raise too_large(f"The image has {width * height} pixels. Send at most {limits.image_pixels}.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise invalid(f"The image is {width} × {height} pixels. One side may be at most {MAX_RATIO} times the other.")
