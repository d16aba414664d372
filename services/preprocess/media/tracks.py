"""Sound tracks that FFmpeg reads, as 16-bit samples: each sample at its place by the file's timestamps."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO
from itertools import chain
from typing import Any, NamedTuple

import av
import av.error
import av.logging
import av.stream
import numpy as np

from services.preprocess.exhaustion import is_exhaustion
from services.preprocess.media.formats import (
    AUDIO_CODEC_NAMES,
    AUDIO_CODECS,
    AUDIO_NAMES,
    CONTAINER_OPTIONS,
    VIDEO_NAMES,
    describe_codec,
    sniff,
)
from services.preprocess.media.problems import invalid
from services.preprocess.media.samples import Samples, Sound, check_layout, finish, to_mono, too_long

# A track that begins later than the picture, or skips time, is silent there. Less is jitter of a recorder's clock; one
# token of sound is 77 ms.
_LEAST_GAP_S = 0.1
# A transport stream's clock may jump. So long a gap in one is no silence.
_CLOCK_JUMP_S = 10.0
# FFmpeg's names of the containers that have a timestamp for each packet. In others it counts them from sizes.
_TIMED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "flv")
# So many packets may be broken: some, and so many of those that are not.
_BROKEN_PACKETS, _BROKEN_SHARE = 2, 0.02
# Of a sound whose file gives no length: the lowest rate that speech is sent at.
_LEAST_BYTES_PER_S = 1000
_USUAL_RATE = 48_000

av.logging.set_level(av.logging.PANIC)


class TrackLength(NamedTuple):
    seconds: float
    rate: int
    channels: int


def decode_track(data: bytes, max_s: float) -> Samples | None:
    """Return [samples] at 16 kHz of the first sound track that FFmpeg finds; None where there is none."""
    with opened_track(data, max_s) as track:
        return finish(list(track.blocks), track.rate) if track is not None else None


@contextmanager
def opened_track(data: bytes, max_s: float) -> Generator[Sound | None]:
    """Decode the first sound track that FFmpeg finds, inside the block; None where there is none. Raise MediaProblem
    for an error of FFmpeg there, too."""
    try:
        with av.open(BytesIO(data), options=CONTAINER_OPTIONS, metadata_errors="ignore") as container:
            yield _sound_of(container, data, max_s) if container.streams.audio else None
    except (av.error.FFmpegError, ValueError) as error:
        if is_exhaustion(error):
            raise
        kind = sniff(data)
        raise invalid(
            f"The {kind} file is broken."
            if kind
            else f"The file has no known audio or video format. Send {AUDIO_NAMES}, or {VIDEO_NAMES}."
        ) from None


def measure_track(data: bytes) -> TrackLength:
    """Return how long the first sound track's packets are. Nothing is decoded. A broken file is short: decoding says
    what is wrong with it."""
    rate, channels, seconds = _USUAL_RATE, 1, 0.0
    try:
        with av.open(BytesIO(data), "r", options=CONTAINER_OPTIONS, metadata_errors="ignore") as container:
            stream: Any = container.streams.audio[0]
            if stream.codec_context is not None:
                rate, channels = stream.codec_context.sample_rate or _USUAL_RATE, stream.codec_context.channels
            first = end = None
            unknown_bytes = 0
            for packet in container.demux(stream):
                if not packet.size:
                    continue
                if packet.duration:
                    seconds += float(packet.duration * packet.time_base)
                else:
                    unknown_bytes += packet.size
                if packet.pts is not None:
                    first = packet.pts if first is None else first
                    end = (packet.pts + (packet.duration or 0)) * packet.time_base
            seconds += unknown_bytes / _LEAST_BYTES_PER_S
            if end is not None and first is not None and container.format.name in _TIMED:
                seconds = max(seconds, float(end - first * stream.time_base) + max(sound_offset_s(container), 0.0))
    except (av.error.FFmpegError, ValueError, IndexError) as error:
        if is_exhaustion(error):
            raise
    return TrackLength(seconds, rate, max(channels, 1))


def require_codec(stream: Any, data: bytes, track: str, codecs: frozenset[str], names: str) -> None:
    """Raise MediaProblem, naming the codec and those that are accepted, where `stream` has none of `codecs`. FFmpeg
    gives a stream no codec context where it knows no decoder at all."""
    name = stream.codec_context.name if stream.codec_context is not None else describe_codec(data, sniff(data), track)
    if name not in codecs:
        raise invalid(f"The {track} codec is not supported: {name}. Send {names}.")


def moving_picture(container: Any) -> Any:
    """Return FFmpeg's first stream that is no cover of an album; None where there is none."""
    pictures = (s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic)
    return next(pictures, None)


def sound_offset_s(container: Any) -> float:
    """Return how much later than the moving picture the sound begins, less than 0 where it is earlier; 0 where one of
    them is not there."""
    sound, picture = next(iter(container.streams.audio), None), moving_picture(container)
    if sound is None or picture is None or sound.start_time is None or picture.start_time is None:
        return 0.0
    offset_s = float(sound.start_time * sound.time_base - picture.start_time * picture.time_base)
    return offset_s if abs(offset_s) >= _LEAST_GAP_S else 0.0


def _sound_of(container: Any, data: bytes, max_s: float) -> Sound:
    stream = container.streams.audio[0]
    require_codec(stream, data, "audio", AUDIO_CODECS, AUDIO_CODEC_NAMES)
    rate = stream.codec_context.sample_rate
    check_layout(rate, stream.codec_context.channels)
    return Sound(rate, _blocks(container, stream, rate, max_s))


def _blocks(container: Any, stream: Any, rate: int, max_s: float) -> Generator[Samples]:
    timeline = _Timeline(container)
    resampler, layout = av.AudioResampler(format="s16", rate=rate), None
    most = math.floor(max_s * rate)
    got = 0
    for frame in chain(_frames(container, stream), (None,)):  # None: what the resampler still holds
        out: list[Any] = []
        if frame is not None:
            check_layout(frame.sample_rate, frame.layout.nb_channels)
            this = (frame.format.name, frame.layout.name, frame.sample_rate)
            if layout not in (None, this):  # a stream may change it as it goes
                out += resampler.resample(None)
                resampler = av.AudioResampler(format="s16", rate=rate)
            layout = this
            silence = round(timeline.gap_before(frame) * rate)
            if got + silence > most:
                raise too_long(max_s)
            if silence:
                yield np.zeros(silence, np.float32)
                got += silence
        for resampled in (*out, *resampler.resample(frame)):
            block = resampled.to_ndarray().reshape(-1, resampled.layout.nb_channels)
            yield to_mono(block.astype(np.float32) / np.float32(32768)).copy()
            got += len(block)
        if got > most:
            raise too_long(max_s)
    if not got:
        raise invalid("The audio is empty.")


def _frames(container: Any, stream: Any) -> Generator[Any]:
    """Yield the track's frames. A broken packet is left out, as players do: where two files were joined there is one.
    Raise av.error.InvalidDataError where there are many, or the last one is: the file was cut."""
    good = broken = 0
    failed: av.error.InvalidDataError | None = None
    for packet in container.demux(stream):
        if not packet.size and failed is not None:
            raise failed
        try:
            frames = packet.decode()
        except av.error.InvalidDataError as error:
            broken += 1
            if broken > _BROKEN_PACKETS + good * _BROKEN_SHARE:
                raise
            failed = error
        else:
            good += 1
            failed = None
            yield from frames


class _Timeline:
    """Where the samples of a track stand in time. `gap_before` takes its frames in order."""

    def __init__(self, container: Any) -> None:
        self._is_timed = container.format.name in _TIMED
        self._jumps = container.format.name == "mpegts"
        self._late_s = max(sound_offset_s(container), 0.0)
        self._end_s: float | None = None

    def gap_before(self, frame: Any) -> float:
        """Return the seconds of silence before the frame; 0 where it follows the one before it."""
        if not self._is_timed or frame.pts is None or frame.time_base is None:
            return 0.0
        start_s = float(frame.pts * frame.time_base)
        gap_s = self._late_s if self._end_s is None else start_s - self._end_s
        if self._jumps and abs(gap_s) > _CLOCK_JUMP_S:
            gap_s = 0.0
        elif self._end_s is not None and gap_s < _LEAST_GAP_S:
            # Jitter is no drift: the next gap counts from where the samples are.
            start_s, gap_s = self._end_s, 0.0
        self._end_s = start_s + frame.samples / frame.sample_rate
        return gap_s
