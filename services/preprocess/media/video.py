"""Video files → sampled, resized RGB frames, and their sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import (
    CONTAINER_OPTIONS,
    IMAGE_FORMATS,
    VIDEO_CODEC_NAMES,
    VIDEO_CODECS,
    VIDEO_NAMES,
    require_content,
    sniff,
)
from services.preprocess.media.images import decode_image
from services.preprocess.media.pace import MAX_FPS, pace_of
from services.preprocess.media.problems import invalid, too_large
from services.preprocess.media.samples import Samples
from services.preprocess.media.sampling import DEFAULT_FPS, VideoOptions, VideoPlan, plan_frames, plan_video
from services.preprocess.media.tracks import decode_track, moving_picture, require_codec, sound_offset_s
from services.preprocess.media.turns import turn_of

Frames = npt.NDArray[np.uint8]
Allocate = Callable[[tuple[int, int, int, int]], Frames]


def new_frames(shape: tuple[int, int, int, int]) -> Frames:
    return np.empty(shape, np.uint8)


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Frames [frames, 3, height, width], uint8, and the rate that they were sampled at; sound at 16 kHz, None where it
    was not asked for or the film has none."""

    frames: Frames
    fps: float
    sound: Samples | None


@dataclass(frozen=True, slots=True)
class Film:
    """A file's video track: frames (packets, while nothing is decoded), size, and which frames are sampled. The size is
    that of the coded frames, before they are turned upright: then height and width may change places."""

    frames: int
    height: int
    width: int
    plan: VideoPlan


def decode_video(
    data: bytes, options: VideoOptions, limits: MediaLimits, *, with_sound: bool, allocate: Allocate = new_frames
) -> DecodedVideo:
    """Sample a video file as qwen-omni-utils does by default, into the array that `allocate` returns. A film without a
    sound track is only seen. Raise MediaProblem."""
    with _refusing_broken(data):
        frames, plan = _decode_frames(data, options, limits, allocate, with_sound=with_sound)
    sound = decode_track(data, min(limits.audio_s, limits.video_s)) if with_sound else None
    return DecodedVideo(frames, plan.fps, sound)


def decode_frames(
    files: Sequence[bytes], options: VideoOptions, limits: MediaLimits, allocate: Allocate = new_frames
) -> DecodedVideo:
    """Make a video of images of one size, in order. Raise MediaProblem."""
    if len(files) > limits.video_frames:
        raise too_large(f"The video has {len(files)} frames. Send at most {limits.video_frames}.")
    first = decode_image(files[0], limits)
    height, width = first.shape[:2]
    plan = plan_frames(len(files), height, width, options, tokens=limits.item_tokens)
    out = allocate((len(plan.indices), 3, plan.height, plan.width))
    for i, index in enumerate(plan.indices):
        pixels = decode_image(files[index], limits) if i else first
        if pixels.shape != first.shape:
            raise invalid(
                f"Frame {index} is {pixels.shape[1]} × {pixels.shape[0]} pixels, the first {width} × {height}. "
                "Send frames of one size."
            )
        out[i] = resize(pixels, plan.height, plan.width)
    return DecodedVideo(out, plan.fps, None)


def resize(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Resize [h, w, 3] to [3, height, width] with the arithmetic of torchvision.transforms.functional.resize on uint8
    tensors (antialiased bicubic in float32, rounded), as the utilities do."""
    import torch  # not in decoders of pictures and sounds: see forkserver.py
    from torch.nn import functional

    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    if planes.shape[-2:] == (height, width):
        return planes[0].numpy()
    scaled = functional.interpolate(
        planes.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled[0].clamp_(0, 255).round_().to(torch.uint8).numpy()


@contextmanager
def _refusing_broken(data: bytes) -> Generator[None]:
    """Turn FFmpeg's errors inside into MediaProblems that name the file's format."""
    require_content(data)
    kind = sniff(data)
    if kind in IMAGE_FORMATS:
        raise invalid(f"The file is a {kind} image, not a video. Send {VIDEO_NAMES}.")
    try:
        yield
    except (av.error.FFmpegError, ValueError) as error:
        if is_exhaustion(error):
            raise
        raise invalid(
            f"The {kind} file is broken." if kind else f"The file has no known video format. Send {VIDEO_NAMES}."
        ) from None


@contextmanager
def _open(data: bytes) -> Generator[tuple[Any, Any]]:
    """The container and its first moving picture."""
    with av.open(BytesIO(data), options=CONTAINER_OPTIONS, metadata_errors="ignore") as container:
        stream = moving_picture(container)
        if stream is None:
            raise invalid(f"The file has no video track. Send {VIDEO_NAMES}.")
        require_codec(stream, data, "video", VIDEO_CODECS, VIDEO_CODEC_NAMES)
        stream.codec_context.thread_count = 2  # FFmpeg's own choice grows with the machine, and memory with it
        yield container, stream


def plan_film(data: bytes, options: VideoOptions, limits: MediaLimits, *, with_sound: bool) -> Film:
    """Return what the file's packets say of its video track, and which frames are sampled. Nothing is decoded. Raise
    MediaProblem as `decode_video`."""
    with _refusing_broken(data):
        return _plan(_measure(data, limits, with_sound=with_sound), options, limits)


@dataclass(frozen=True, slots=True)
class _Measured:
    """Of a video track: when its frames (or packets) are shown, for how long the last one, the rate that the headers
    say, how much earlier the sound begins that is heard with it, and the coded size."""

    times_s: Sequence[float | None]
    last_s: float
    header_fps: float
    lead_s: float
    height: int
    width: int


def _plan(track: _Measured, options: VideoOptions, limits: MediaLimits) -> Film:
    pace = pace_of(track.times_s, track.last_s, track.header_fps, options.fps or DEFAULT_FPS, track.lead_s)
    if not 0 < pace.fps <= 1000:
        raise invalid("The video gives no frame rate.")
    plan = plan_video(
        pace.frames,
        pace.fps,
        track.height,
        track.width,
        options,
        max_frames=limits.video_frames,
        tokens=limits.item_tokens,
    )
    plan = replace(plan, indices=tuple(map(pace.frame_at, plan.indices)))
    return Film(len(track.times_s), track.height, track.width, plan)


def _decode_frames(
    data: bytes, options: VideoOptions, limits: MediaLimits, allocate: Allocate, *, with_sound: bool
) -> tuple[Frames, VideoPlan]:
    track = _measure(data, limits, with_sound=with_sound)
    while True:
        film = _plan(track, options, limits)
        frames, times_s = _take(data, film.plan, limits, allocate)
        if len(times_s) == film.frames and frames is not None:
            return frames, film.plan
        if frames is None or len(times_s) > film.frames:
            raise invalid("The video is broken.")
        # Some packets hold no frame: plan again for the frames that there are.
        track = replace(track, times_s=times_s)


def _measure(data: bytes, limits: MediaLimits, *, with_sound: bool) -> _Measured:
    """Return what the track's headers and packets say. Nothing is decoded."""
    with _open(data) as (container, stream):
        height, width = stream.codec_context.height, stream.codec_context.width
        if height < 1 or width < 1:
            raise invalid("The video is broken.")
        if height * width > limits.video_frame_pixels:
            raise too_large(
                f"The video's frames have {height * width} pixels. Send at most {limits.video_frame_pixels}."
            )
        most = math.floor(limits.video_s * MAX_FPS)
        times_s: list[float | None] = []
        end_s, last, last_s = 0.0, -math.inf, 0.0
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise invalid("The file is truncated: it is shorter than its own headers say.")
            times_s.append(None)
            if packet.pts is not None:
                start_s = float((packet.pts - (stream.start_time or 0)) * packet.time_base)
                lasts_s = float((packet.duration or 0) * packet.time_base)
                times_s[-1] = start_s
                end_s = max(end_s, start_s + lasts_s)
                if start_s > last:
                    last, last_s = start_s, lasts_s
            if end_s > limits.video_s or len(times_s) > most:
                raise too_large(f"The video is longer than {limits.video_s:g} s. Send at most {limits.video_s:g} s.")
        if not times_s:
            raise invalid("The video has no frames.")
        header_fps = float(stream.average_rate) if stream.average_rate else 0.0
        lead_s = max(-sound_offset_s(container), 0.0) if with_sound else 0.0
        return _Measured(times_s, last_s if len(times_s) > 1 else end_s, header_fps, lead_s, height, width)


def _take(
    data: bytes, plan: VideoPlan, limits: MediaLimits, allocate: Allocate
) -> tuple[Frames | None, list[float | None]]:
    """Return the planned frames, upright, and when each frame of the track is shown. No frames where there is none."""
    out: Frames | None = None
    taken = 0
    times_s: list[float | None] = []
    with _open(data) as (container, stream):
        for frame in container.decode(stream):
            if frame.width * frame.height > limits.video_frame_pixels:
                raise too_large(
                    f"The video's frames have more than {limits.video_frame_pixels} pixels. Send smaller ones."
                )
            turn = turn_of(frame)
            if out is None:
                height, width = (plan.width, plan.height) if turn.swaps else (plan.height, plan.width)
                out = allocate((len(plan.indices), 3, height, width))
            if taken < len(plan.indices) and plan.indices[taken] == len(times_s):
                pixels = resize(turn.apply(frame.to_ndarray(format="rgb24")), *out.shape[2:])
                while taken < len(plan.indices) and plan.indices[taken] == len(times_s):
                    out[taken] = pixels
                    taken += 1
            times_s.append(None if frame.pts is None else float(frame.pts * frame.time_base))
    return out, times_s
