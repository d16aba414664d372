"""Video files → sampled, resized RGB frames, and their sound."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import av
import av.error
import av.stream
import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import Samples, decode_track, require_codec
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
from services.preprocess.media.problems import invalid, too_large
from services.preprocess.media.sampling import VideoOptions, VideoPlan, plan_frames, plan_video

MAX_FPS = 240.0


@dataclass(frozen=True, slots=True)
class DecodedVideo:
    """Frames [frames, 3, height, width], uint8, and the rate that they were sampled at; sound at 16 kHz."""

    frames: npt.NDArray[np.uint8]
    fps: float
    sound: Samples | None


def decode_video(data: bytes, options: VideoOptions, limits: MediaLimits, *, with_sound: bool) -> DecodedVideo:
    """Sample a video file as qwen-omni-utils does by default. Raise MediaProblem, also where sound is asked for and the
    file has none."""
    require_content(data)
    kind = sniff(data)
    if kind in IMAGE_FORMATS:
        raise invalid(f"The file is a {kind} image, not a video. Send {VIDEO_NAMES}.")
    try:
        frames, plan = _decode_frames(data, options, limits)
    except (av.error.FFmpegError, ValueError) as error:
        if is_exhaustion(error):
            raise
        raise invalid(
            f"The {kind} file is broken." if kind else f"The file has no known video format. Send {VIDEO_NAMES}."
        ) from None
    sound = None
    if with_sound:
        sound = decode_track(data, min(limits.audio_s, limits.video_s))
        if sound is None:
            raise invalid("The video has no sound track. Send one that has, or turn use_audio_in_video off.")
    return DecodedVideo(frames, plan.fps, sound)


def decode_frames(files: Sequence[bytes], options: VideoOptions, limits: MediaLimits) -> DecodedVideo:
    """Make a video of images of one size, in order. Raise MediaProblem."""
    if len(files) > limits.video_frames:
        raise too_large(f"The video has {len(files)} frames. Send at most {limits.video_frames}.")
    first = decode_image(files[0], limits)
    height, width = first.shape[:2]
    plan = plan_frames(len(files), height, width, options, tokens=limits.item_tokens)
    out = np.empty((len(plan.indices), 3, plan.height, plan.width), np.uint8)
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
    planes = torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None]
    if planes.shape[-2:] == (height, width):
        return planes[0].numpy()
    scaled = functional.interpolate(
        planes.float(), size=(height, width), mode="bicubic", antialias=True, align_corners=False
    )
    return scaled[0].clamp_(0, 255).round_().to(torch.uint8).numpy()


@contextmanager
def _open(data: bytes) -> Generator[tuple[Any, Any]]:
    """The container and its first moving picture."""
    with av.open(BytesIO(data), options=CONTAINER_OPTIONS, metadata_errors="ignore") as container:
        streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
        if not streams:
            raise invalid(f"The file has no video track. Send {VIDEO_NAMES}.")
        stream = streams[0]
        require_codec(stream, data, "video", VIDEO_CODECS, VIDEO_CODEC_NAMES)
        stream.codec_context.thread_count = 2  # FFmpeg's own choice grows with the machine, and memory with it
        yield container, stream


def _decode_frames(data: bytes, options: VideoOptions, limits: MediaLimits) -> tuple[npt.NDArray[np.uint8], VideoPlan]:
    total, fps, height, width = _measure(data, limits)
    while True:
        plan = plan_video(total, fps, height, width, options, max_frames=limits.video_frames, tokens=limits.item_tokens)
        frames, decoded = _take(data, plan, limits)
        if decoded == total:
            return frames, plan
        if not decoded or decoded > total:
            raise invalid("The video is broken.")
        total = decoded  # some packets hold no frame: plan again for the frames that there are


def _measure(data: bytes, limits: MediaLimits) -> tuple[int, float, int, int]:
    """Return the video track's packets, frames a second, height and width. Nothing is decoded."""
    with _open(data) as (container, stream):
        height, width = stream.codec_context.height, stream.codec_context.width
        if height < 1 or width < 1:
            raise invalid("The video is broken.")
        if height * width > limits.video_frame_pixels:
            raise too_large(
                f"The video's frames have {height * width} pixels. Send at most {limits.video_frame_pixels}."
            )
        most = math.floor(limits.video_s * MAX_FPS)
        total, end_s = 0, 0.0
        for packet in container.demux(stream):
            if not packet.size or packet.is_discard:
                continue
            if packet.is_corrupt:
                raise invalid("The file is truncated: it is shorter than its own headers say.")
            total += 1
            if packet.pts is not None:
                end_s = max(
                    end_s, float((packet.pts - (stream.start_time or 0) + (packet.duration or 0)) * packet.time_base)
                )
            if end_s > limits.video_s or total > most:
                raise too_large(f"The video is longer than {limits.video_s:g} s. Send at most {limits.video_s:g} s.")
        if not total:
            raise invalid("The video has no frames.")
        fps = float(stream.average_rate) if stream.average_rate else total / end_s if end_s else 0.0
        if not 0 < fps <= 1000:
            raise invalid("The video gives no frame rate.")
        return total, fps, height, width


def _take(data: bytes, plan: VideoPlan, limits: MediaLimits) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the planned frames, and how many frames the track has."""
    out = np.empty((len(plan.indices), 3, plan.height, plan.width), np.uint8)
    taken = decoded = 0
    with _open(data) as (container, stream):
        for frame in container.decode(stream):
            if frame.width * frame.height > limits.video_frame_pixels:
                raise too_large(
                    f"The video's frames have more than {limits.video_frame_pixels} pixels. Send smaller ones."
                )
            if taken < len(plan.indices) and plan.indices[taken] == decoded:
                pixels = resize(frame.to_ndarray(format="rgb24"), plan.height, plan.width)
                while taken < len(plan.indices) and plan.indices[taken] == decoded:
                    out[taken] = pixels
                    taken += 1
            decoded += 1
    return out, decoded
