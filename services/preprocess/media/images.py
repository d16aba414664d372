"""Image files → RGB pixels."""

from __future__ import annotations

import warnings
from io import BytesIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import IMAGE_FORMATS, require_content, sniff
from services.preprocess.media.problems import MediaProblem, invalid, too_large

PIL_FORMATS = ("PNG", "JPEG", "GIF", "WEBP")
# Longest side over shortest: more is refused by the model's resize.
MAX_RATIO = 200

Image.MAX_IMAGE_PIXELS = None  # the operator's limit is checked here, on the header


def decode_image(data: bytes, limits: MediaLimits) -> npt.NDArray[np.uint8]:
    """[height, width, 3] of the file's first frame, as the model's utilities read it: what is transparent turns white
    in RGBA images, the orientation that a camera noted is not applied. Raises MediaProblem."""
    require_content(data)
    kind = sniff(data)
    if kind not in IMAGE_FORMATS:
        raise invalid(
            f"{f'this is {kind}' if kind else 'this is no known format'}; images may be png, jpeg, webp or gif"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(BytesIO(data), formats=PIL_FORMATS) as image:
                _check_size(image.width, image.height, limits)
                return np.array(to_rgb(image))
    except MediaProblem:
        raise
    except Exception:  # Pillow's decoders raise nearly everything for broken files
        raise invalid(f"the {kind} image is broken") from None


def to_rgb(image: Image.Image) -> Image.Image:
    """qwen-omni-utils' conversion: only RGBA is laid on white."""
    if image.mode == "RGBA":
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(image, mask=image.getchannel("A"))
        return white
    return image.convert("RGB")


def _check_size(width: int, height: int, limits: MediaLimits) -> None:
    if width * height > limits.image_pixels:
        raise too_large(f"the image has {width * height} pixels; at most {limits.image_pixels} are taken")
    if max(width, height) > MAX_RATIO * min(width, height):
        raise invalid(f"the image is {width} × {height}: one side may be at most {MAX_RATIO} times the other")
