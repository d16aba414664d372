"""How much work a file is, by its headers: read before anything is decoded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import measure_audio
from services.preprocess.media.formats import sniff, unwritten_length
from services.preprocess.media.images import read_size
from services.preprocess.media.problems import too_large
from services.preprocess.media.samples import SAMPLE_RATE
from services.preprocess.media.sampling import VideoOptions, plan_frames
from services.preprocess.media.video import plan_film

_ESTIMATED, _USUAL_OVER_S = 1.5, 10

# Most memory of a decoder: of any job; of a pixel of a still picture (measured: 23.8, of a turned WebP with alpha); of
# a pixel of a frame (assumed: codecs keep up to 16 others) and of its resize (of the frame and of the result; measured:
# 15 where it shrinks); of a moment of sound, at its rate or at SAMPLE_RATE where that is higher (measured: 10.6).
FLOOR_BYTES = 48 << 20
IMAGE_BYTES = 28
FILM_BYTES = 70
RESIZE_BYTES = 36
SOUND_BYTES = 12
# The same of a recording that is cut, of each sample of a piece: its blocks, the piece, the search for a quiet place.
PIECE_BYTES = 32
_BLOCKS_S = 10  # what may be decoded beyond a piece before it is cut


@dataclass(frozen=True, slots=True)
class Work:
    """`pixels` of still images and `film_pixels` of a video's frames to decode, `resized` of them to resize; `samples`
    of sound, over all channels.

    What comes out is `frames` pictures of `height` × `width` pixels, and at most `seconds` of sound. `decoder_bytes` is
    the most memory that decoding takes beside the files and the results.
    """

    pixels: int = 0
    film_pixels: int = 0
    resized: int = 0
    samples: int = 0
    frames: int = 0
    height: int = 0
    width: int = 0
    seconds: int = 0
    # Of a recording that is cut, by its headers; `seconds` are then those of a piece.
    recording_s: int = 0
    decoder_bytes: int = 0

    @property
    def result_bytes(self) -> int:
        pictures = self.frames * self.height * self.width * 3
        # Where some packets hold no frame, a film is planned anew: with fewer frames, each a little larger.
        return pictures + (pictures // 4 if self.film_pixels else 0) + self.seconds * SAMPLE_RATE * 4


def work_of_image(data: bytes, limits: MediaLimits) -> Work:
    """Raise MediaProblem where the headers are broken, or promise more than the limits."""
    width, height = read_size(data, limits)
    pixels = width * height
    decoder_bytes = FLOOR_BYTES + IMAGE_BYTES * pixels + _copied_bytes(data)
    return Work(pixels, frames=1, height=height, width=width, decoder_bytes=decoder_bytes)


def _copied_bytes(data: bytes) -> int:
    """Return how much of a picture's file is copied: see png.py."""
    return len(data) if sniff(data) == "png" else 0


def work_of_frames(files: Sequence[bytes], options: VideoOptions, limits: MediaLimits) -> Work:
    """Of a video that is given as images. Raise MediaProblem as `work_of_image`, and where one is over a frame's limit
    or the model cannot take the video."""
    if len(files) > limits.video_frames:
        raise too_large(f"The video has {len(files)} frames. Send at most {limits.video_frames}.")
    pixels, largest, size = 0, 0, (0, 0)
    for file in files:
        size = read_size(file, limits)
        if size[0] * size[1] > limits.video_frame_pixels:
            raise too_large(
                f"The video's frames have {size[0] * size[1]} pixels. Send at most {limits.video_frame_pixels}."
            )
        pixels += size[0] * size[1]
        largest = max(largest, size[0] * size[1])
    plan = plan_frames(len(files), size[1], size[0], options, tokens=limits.item_tokens)
    resizing = RESIZE_BYTES * (largest + plan.height * plan.width)
    return Work(
        pixels,
        resized=pixels,
        frames=len(plan.indices),
        height=plan.height,
        width=plan.width,
        decoder_bytes=FLOOR_BYTES + IMAGE_BYTES * largest + max(map(_copied_bytes, files)) + resizing,
    )


def work_of_video(data: bytes, options: VideoOptions, limits: MediaLimits, *, with_sound: bool) -> Work:
    """Raise MediaProblem as `decode_video` for what the headers and packets show."""
    film = plan_film(data, options, limits, with_sound=with_sound)
    frame = film.height * film.width
    sound = work_of_sound(data, limits) if with_sound else Work()
    plan = film.plan
    resizing = RESIZE_BYTES * (frame + plan.height * plan.width)
    return Work(
        film_pixels=film.frames * frame,
        resized=len(set(plan.indices)) * frame,
        samples=sound.samples,
        frames=len(plan.indices),
        height=plan.height,
        width=plan.width,
        seconds=sound.seconds,
        # One after another: the pictures, then the sound.
        decoder_bytes=max(FLOOR_BYTES + FILM_BYTES * frame + resizing, sound.decoder_bytes),
    )


def work_of_sound(data: bytes, limits: MediaLimits) -> Work:
    """Never more than the limits allow: a sound that promises more is refused when it is decoded."""
    seconds, rate, channels = measure_audio(data)
    # Its headers may estimate it. It is not refused for being a little longer than they say.
    most_s = math.ceil(min(seconds * _ESTIMATED + _USUAL_OVER_S, limits.audio_s + 1))
    return Work(
        samples=round(min(seconds, limits.audio_s) * rate * channels),
        seconds=most_s,
        decoder_bytes=FLOOR_BYTES
        + SOUND_BYTES * most_s * max(rate, SAMPLE_RATE)
        + (len(data) if unwritten_length(data) else 0),  # a copy with its length
    )


def work_of_recording(data: bytes, limits: MediaLimits, piece_s: float) -> Work:
    """As `work_of_sound`, of a sound that comes out in pieces."""
    seconds, rate, channels = measure_audio(data)
    recording_s = min(seconds, limits.recording_s)
    most_s = math.ceil(piece_s)
    return Work(
        samples=round(recording_s * rate * channels),
        seconds=most_s,
        recording_s=math.ceil(recording_s),
        decoder_bytes=FLOOR_BYTES
        + PIECE_BYTES * (most_s + _BLOCKS_S) * SAMPLE_RATE
        + (len(data) if unwritten_length(data) else 0),
    )
