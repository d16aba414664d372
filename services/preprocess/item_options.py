"""What a client asks of an image or a video: its size, its frames."""

from __future__ import annotations

from antiphon.v1 import preprocess_pb2
from services.common.errors import BadInput
from services.preprocess.media.sampling import DEFAULT_FPS, VideoOptions
from services.preprocess.parts import MediaPart

MAX_FPS = 240


def image_bounds(part: MediaPart, largest: int) -> tuple[int | None, int | None]:
    """Return the client's least and most pixels of an image, within the checkpoint's `largest`; None = it sets none.

    Raise BadInput naming the field.
    """
    least, most = _pixel_bounds(part.part.image, part)
    if least is not None and least > largest:
        raise BadInput(f"min_pixels is {least}. Send at most {largest}.", param=part.param("min_pixels"))
    return least, min(most, largest) if most is not None else None


def video_options(part: MediaPart, factor: int) -> VideoOptions:
    """Return how a video is sampled. `factor`: pixels of its sides are multiples of it. Raise BadInput naming the
    field."""
    video = part.part.video
    least, most = _pixel_bounds(video, part)
    total = video.total_pixels if video.HasField("total_pixels") else None
    fps = video.fps if video.HasField("fps") else None
    if fps is not None and not 0 < fps <= MAX_FPS:
        raise BadInput(f"fps must be over 0 and at most {MAX_FPS}.", param=part.param("fps"))
    return VideoOptions(factor, fps or DEFAULT_FPS, least, most, total)


def _pixel_bounds(
    media: preprocess_pb2.ImagePart | preprocess_pb2.VideoPart, part: MediaPart
) -> tuple[int | None, int | None]:
    least = media.min_pixels if media.HasField("min_pixels") else None
    most = media.max_pixels if media.HasField("max_pixels") else None
    for name, value in (("min_pixels", least), ("max_pixels", most)):
        if value is not None and value < 1:
            raise BadInput(f"{name} must be at least 1.", param=part.param(name))
    if least is not None and most is not None and least > most:
        raise BadInput("min_pixels is more than max_pixels. Send a smaller one.", param=part.param("min_pixels"))
    return least, most
