"""Image files → RGB pixels."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import IMAGE_FORMATS, IMAGE_NAMES, require_content, sniff
from services.preprocess.media.problems import MediaProblem, invalid, too_large

PIL_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
# Longest side over shortest: more is refused by the model's resize.
MAX_RATIO = 200

Image.MAX_IMAGE_PIXELS = None  # the operator's limit is checked here, on the header


def decode_image(data: bytes, limits: MediaLimits) -> npt.NDArray[np.uint8]:
    """Return [height, width, 3] of the file's first frame, as the model's utilities read it: transparent pixels of RGBA
    images turn white, and a camera's orientation tag is not applied. Raise MediaProblem."""
    require_content(data)
    kind = sniff(data)
    if kind not in IMAGE_FORMATS:
        found = f"The file is {kind}, not an image." if kind else "The file has no known image format."
        raise invalid(f"{found} Send {IMAGE_NAMES}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=PIL_FORMATS) as image:
                _check_size(image.width, image.height, limits)
                return np.array(to_rgb(image))
    except MediaProblem:
        raise
    except Exception as error:  # Pillow's decoders raise nearly everything for broken files
        if is_exhaustion(error):
            raise
        raise invalid(f"The {kind} image is broken.") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert as qwen-omni-utils does: only RGBA is laid on white."""
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _check_size(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.image_pixels:
        raise too_large(f"The image has {width * height} pixels. Send at most {limits.image_pixels}.")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise invalid(f"The image is {width} × {height} pixels. One side may be at most {MAX_RATIO} times the other.")
