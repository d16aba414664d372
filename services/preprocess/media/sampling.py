"""Which frames of a video the model sees, and at which size: the rules and defaults of qwen-omni-utils 0.0.9.

The utilities count in patches of the vision encoder. A factor is the side of one token in pixels: patch size times
merge size (32 in the released checkpoints).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from services.preprocess.media.problems import invalid, too_many_tokens

DEFAULT_FPS = 2.0
FRAME_FACTOR = 2  # frames of one temporal patch
MIN_FRAMES = 4
MIN_TOKENS = 128  # of a frame
MAX_TOKENS = 768
TOTAL_TOKENS = 128_000 * 0.9  # of all frames, two by two
MAX_RATIO = 200


@dataclass(frozen=True, slots=True)
class VideoOptions:
    """What a request may ask of a video; None = the utilities' default."""

    factor: int
    fps: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None


@dataclass(frozen=True, slots=True)
class VideoPlan:
    """Indices of the frames to take (ascending; they may repeat), their size after the resize, and the rate that tells
    the model how far apart they are."""

    indices: tuple[int, ...]
    height: int
    width: int
    fps: float


def smart_resize(height: int, width: int, factor: int, min_pixels: float, max_pixels: float) -> tuple[int, int]:
    """Return the nearest (height, width) divisible by `factor`, within the pixel bounds, of about the same shape.

    Raise MediaProblem where one side is over 200 times the other or the bounds contradict each other.
    """
    if max_pixels < min_pixels:
        raise invalid(f"max_pixels ({max_pixels:g}) is less than min_pixels ({min_pixels:g}). Send a larger one.")
    if max(height, width) > MAX_RATIO * min(height, width):
        raise invalid(f"The video is {width} × {height} pixels. One side may be at most {MAX_RATIO} times the other.")
    fitted_h = max(factor, round(height / factor) * factor)
    fitted_w = max(factor, round(width / factor) * factor)
    if fitted_h * fitted_w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        fitted_h = max(factor, math.floor(height / shrink / factor) * factor)
        fitted_w = max(factor, math.floor(width / shrink / factor) * factor)
    elif fitted_h * fitted_w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        fitted_h = math.ceil(height * grow / factor) * factor
        fitted_w = math.ceil(width * grow / factor) * factor
    return fitted_h, fitted_w


def frame_size(frames: int, height: int, width: int, options: VideoOptions) -> tuple[int, int]:
    """Return the (height, width) of each of `frames` frames: the more frames, the smaller each."""
    area = options.factor**2
    least = options.min_pixels if options.min_pixels is not None else MIN_TOKENS * area
    total = options.total_pixels if options.total_pixels is not None else TOTAL_TOKENS * area
    most = max(min(MAX_TOKENS * area, total / frames * FRAME_FACTOR), int(least * 1.05))
    if options.max_pixels is not None:
        most = min(most, options.max_pixels)
    return smart_resize(height, width, options.factor, least, most)


def plan_video(
    total_frames: int, video_fps: float, height: int, width: int, options: VideoOptions, *, max_frames: int, tokens: int
) -> VideoPlan:
    """Plan a video file of `total_frames` frames at `video_fps`. Raise MediaProblem where it has under two frames or
    needs more than `tokens` tokens.

    The plan's rate is the requested one, as transformers means its `fps`: rounding to an even count changes the true
    rate by a few per cent, which is ignored. Only where `max_frames` thins the video out is it the true rate.
    """
    wanted = total_frames / video_fps * (options.fps if options.fps is not None else DEFAULT_FPS)
    most = min(max_frames, total_frames) // FRAME_FACTOR * FRAME_FACTOR
    count = int(min(max(wanted, MIN_FRAMES), most, total_frames)) // FRAME_FACTOR * FRAME_FACTOR
    if count < FRAME_FACTOR:
        raise invalid(f"The video has {total_frames} frames. Send at least {FRAME_FACTOR}.")
    import torch  # not in decoders of pictures and sounds: see forkserver.py

    # float32 and ties to even, as the utilities round
    indices = torch.linspace(0, total_frames - 1, count).round().long().tolist()
    fps = options.fps if options.fps is not None else DEFAULT_FPS
    if wanted > max_frames:
        fps = count / total_frames * video_fps
    return VideoPlan(tuple(indices), *_fitting_size(count, height, width, options, tokens), fps)


def plan_frames(count: int, height: int, width: int, options: VideoOptions, *, tokens: int) -> VideoPlan:
    """Plan a video that is given as `count` images of one size. All are taken, the last one twice where `count` is odd;
    `options.fps` says how they were sampled. Raise MediaProblem as `plan_video` does."""
    indices = (*range(count), *(count - 1 for _ in range(count % FRAME_FACTOR)))
    size = _fitting_size(len(indices), height, width, options, tokens)
    return VideoPlan(indices, *size, options.fps if options.fps is not None else DEFAULT_FPS)


def _fitting_size(count: int, height: int, width: int, options: VideoOptions, tokens: int) -> tuple[int, int]:
    fitted = frame_size(count, height, width, options)
    needed = count // FRAME_FACTOR * math.prod(fitted) // options.factor**2
    if needed > tokens:
        raise too_many_tokens(
            f"The video alone takes {needed} tokens, but the model takes at most {tokens}. "
            "Send a shorter one, or a lower fps or max_pixels."
        )
    return fitted
