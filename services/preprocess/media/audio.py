"""Audio files → 16 kHz mono float32, as `librosa.load(sr=16000)` gives it, which the model's utilities call.

libsndfile reads what it can; FFmpeg reads the rest as 16-bit samples. Channels are averaged; soxr resamples (HQ).
"""

from __future__ import annotations

import math
from io import BytesIO
from itertools import chain
from typing import Any

import av
import av.error
import av.logging
import numpy as np
import numpy.typing as npt
import soundfile
import soxr

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import (
    AUDIO_CODEC_NAMES,
    AUDIO_CODECS,
    AUDIO_NAMES,
    CONTAINER_OPTIONS,
    IMAGE_FORMATS,
    SOUNDFILE_FORMATS,
    VIDEO_NAMES,
    describe_codec,
    require_content,
    sniff,
)
from services.preprocess.media.problems import MediaProblem, invalid, too_large

SAMPLE_RATE = 16_000
# The first mel frame reflects half a window (400 samples) at each end: transformers fails on less.
MIN_SAMPLES = 201
MAX_CHANNELS = 32
BLOCK_FRAMES = 1 << 16
Samples = npt.NDArray[np.float32]

av.logging.set_level(av.logging.PANIC)


def decode_audio(data: bytes, limits: MediaLimits) -> Samples:
    """Return [samples] at 16 kHz of any audio file, or of a video file's first sound track. Raise MediaProblem."""
    require_content(data)
    kind = sniff(data)
    if kind in IMAGE_FORMATS:
        raise invalid(f"The file is a {kind} image, not audio. Send {AUDIO_NAMES}.")
    if kind in SOUNDFILE_FORMATS:
        try:
            return finish(*_read_soundfile(data, limits.audio_s))
        except soundfile.LibsndfileError:
            pass  # a codec that libsndfile lacks inside a container that it knows
    samples = decode_track(data, limits.audio_s)
    if samples is None:
        raise invalid("The file has no sound track. Send a file that has one.")
    return samples


def decode_track(data: bytes, max_s: float) -> Samples | None:
    """Return [samples] at 16 kHz of the first sound track that FFmpeg finds; None where there is none."""
    try:
        with av.open(BytesIO(data), options=CONTAINER_OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.audio:
                return None
            return finish(*_read_track(container, data, max_s))
    except (av.error.FFmpegError, ValueError) as error:
        if is_exhaustion(error):
            raise
        kind = sniff(data)
        raise invalid(
            f"The {kind} file is broken."
            if kind
            else f"The file has no known audio or video format. Send {AUDIO_NAMES}, or {VIDEO_NAMES}."
        ) from None


def finish(channels: Samples, rate: int) -> Samples:
    """Average and resample [channels, frames] at `rate` to [samples] at 16 kHz, ceil(frames · ratio) long."""
    mono = channels.mean(axis=0) if len(channels) > 1 else channels[0]
    if not np.isfinite(mono).all():
        raise invalid("The audio holds samples that are not finite numbers.")
    if rate != SAMPLE_RATE and mono.size:
        wanted = math.ceil(mono.size * (SAMPLE_RATE / rate))
        mono = soxr.resample(mono, rate, SAMPLE_RATE, quality="soxr_hq")
        mono = mono[:wanted] if mono.size >= wanted else np.pad(mono, (0, wanted - mono.size))
    if mono.size < MIN_SAMPLES:
        raise invalid(
            f"The audio is {mono.size / SAMPLE_RATE * 1000:.0f} ms long. "
            f"Send at least {math.ceil(MIN_SAMPLES / SAMPLE_RATE * 1000)} ms."
        )
    return np.ascontiguousarray(mono, dtype=np.float32)


def _read_soundfile(data: bytes, max_s: float) -> tuple[Samples, int]:
    with soundfile.SoundFile(BytesIO(data)) as file:
        rate, promised = file.samplerate, file.frames
        check_layout(rate, file.channels)
        most = math.floor(max_s * rate)
        if promised > most and file.format != "MP3":  # of an MP3 it is an estimate
            raise too_long(max_s)
        blocks: list[Samples] = []
        got = 0
        while len(block := file.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
            blocks.append(block.astype(np.float32, copy=False))
            got += len(block)
            if got > most:
                raise too_long(max_s)
        if not blocks:
            raise invalid("The audio is empty.")
        if file.format == "FLAC" and got < promised:
            raise invalid("The file is truncated: it is shorter than its own headers say.")
        return np.concatenate(blocks).T, rate


def _read_track(container: Any, data: bytes, max_s: float) -> tuple[Samples, int]:
    stream = container.streams.audio[0]
    require_codec(stream, data, "audio", AUDIO_CODECS, AUDIO_CODEC_NAMES)
    rate, channels = stream.codec_context.sample_rate, stream.codec_context.channels
    check_layout(rate, channels)
    resampler = av.AudioResampler(format="s16", rate=rate)
    most = math.floor(max_s * rate)
    blocks: list[Samples] = []
    got = 0
    for frame in chain(container.decode(stream), (None,)):  # None: what the resampler still holds
        for resampled in resampler.resample(frame):
            block = resampled.to_ndarray().reshape(-1, channels)
            blocks.append(block.astype(np.float32) / np.float32(32768))
            got += len(block)
        if got > most:
            raise too_long(max_s)
    if not blocks:
        raise invalid("The audio is empty.")
    return np.concatenate(blocks).T, rate


def require_codec(stream: Any, data: bytes, track: str, codecs: frozenset[str], names: str) -> None:
    """Raise MediaProblem, naming the codec and those that are accepted, where `stream` has none of `codecs`. FFmpeg
    gives a stream no codec context where it knows no decoder at all."""
    name = stream.codec_context.name if stream.codec_context is not None else describe_codec(data, sniff(data), track)
    if name not in codecs:
        raise invalid(f"The {track} codec is not supported: {name}. Send {names}.")


def check_layout(rate: int, channels: int) -> None:
    if not 1000 <= rate <= 768_000 or not 1 <= channels <= MAX_CHANNELS:
        raise invalid(
            f"The audio has {channels} channels at {rate} Hz. Send 1 to {MAX_CHANNELS} channels at 1000 to 768000 Hz."
        )


def too_long(max_s: float) -> MediaProblem:
    return too_large(f"The audio is longer than {max_s:g} s. Send at most {max_s:g} s.")
