"""Audio files → 16 kHz mono float32, as `librosa.load(sr=16000)` gives it, which the model's utilities call.

libsndfile reads what it can, to the file's last sample; FFmpeg reads the rest as 16-bit samples.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import contextmanager
from io import BytesIO

import numpy as np
import soundfile

from services.preprocess.limits import MediaLimits
from services.preprocess.media.formats import (
    AUDIO_NAMES,
    IMAGE_FORMATS,
    SOUNDFILE_FORMATS,
    is_chained_ogg,
    require_content,
    sniff,
    unwritten_length,
)
from services.preprocess.media.pieces import cut_at_silence
from services.preprocess.media.problems import MediaProblem, invalid
from services.preprocess.media.samples import (
    SAMPLE_RATE,
    Samples,
    Sound,
    check_layout,
    finish,
    resampled,
    to_mono,
    too_long,
)
from services.preprocess.media.tracks import TrackLength, decode_track, measure_track, opened_track

_BLOCK_FRAMES = 1 << 16
# libsndfile's number of frames where a file does not say it: recorders that write to a pipe cannot.
_UNKNOWN_FRAMES = (1 << 63) - 1
# libsndfile estimates the length of an MP3 without one, and stops there. Less than so much is an encoder's padding.
_MISSING_S = 0.5


class _NotWhole(Exception):
    """libsndfile reads less of the file than there is."""


def decode_audio(data: bytes, limits: MediaLimits) -> Samples:
    """Return [samples] at 16 kHz of any audio file, or of a video file's first sound track. Raise MediaProblem."""
    if _kind_of(data) in SOUNDFILE_FORMATS:
        try:
            with _opened_soundfile(data, limits.audio_s) as sound:
                return finish(list(sound.blocks), sound.rate)
        except (soundfile.LibsndfileError, _NotWhole):
            pass  # also a codec that libsndfile lacks inside a container that it knows
    samples = decode_track(data, limits.audio_s)
    if samples is None:
        raise _silent()
    return samples


def audio_pieces(data: bytes, limits: MediaLimits, piece_s: float) -> Generator[Samples]:
    """Yield the samples that `decode_audio` returns, cut at quiet moments into pieces of at most `piece_s`. The whole
    sound is in memory at no time. Raise MediaProblem."""
    kind, most = _kind_of(data), math.floor(piece_s * SAMPLE_RATE)
    if kind in SOUNDFILE_FORMATS and _is_read_whole(data):
        try:
            with _opened_soundfile(data, limits.recording_s) as sound:
                yield from cut_at_silence(resampled(sound), most)
        except (soundfile.LibsndfileError, _NotWhole):
            raise invalid(f"The {kind} file is broken.") from None
        return
    with opened_track(data, limits.recording_s) as track:
        if track is None:
            raise _silent()
        yield from cut_at_silence(resampled(track), most)


def _kind_of(data: bytes) -> str:
    """Return the file's format; "" = it is unknown."""
    require_content(data)
    kind = sniff(data)
    if kind in IMAGE_FORMATS:
        raise invalid(f"The file is a {kind} image, not audio. Send {AUDIO_NAMES}.")
    return kind


def _silent() -> MediaProblem:
    return invalid("The file has no sound track. Send a file that has one.")


def measure_audio(data: bytes) -> TrackLength:
    """Return how long the sound is by its headers and packets. A broken file is short."""
    if sniff(data) in SOUNDFILE_FORMATS:
        try:
            with _open(data) as file:
                if file.frames != _UNKNOWN_FRAMES:
                    seconds = file.frames / max(file.samplerate, 1)
                    if file.format == "MP3" or is_chained_ogg(data):
                        seconds = max(seconds, measure_track(data).seconds)
                    return TrackLength(seconds, file.samplerate, file.channels)
        except soundfile.LibsndfileError:
            pass
    return measure_track(data)


def _open(data: bytes) -> soundfile.SoundFile:
    file = BytesIO(data)
    at = unwritten_length(data)
    if at:
        file.seek(at)
        file.write(b"\xff\xff\xff\xff")  # to the end of the file
        file.seek(0)
    return soundfile.SoundFile(file)


def _is_read_whole(data: bytes) -> bool:
    """Return whether libsndfile reads all of the file, as far as can be told before it does."""
    try:
        with _open(data) as file:
            if file.frames == _UNKNOWN_FRAMES or is_chained_ogg(data):
                return False
            return file.format != "MP3" or not _is_missed(data, file.frames / file.samplerate)
    except soundfile.LibsndfileError:
        return False


def _is_missed(data: bytes, read_s: float) -> bool:
    """Return whether an MP3 is longer than what libsndfile reads of it."""
    return measure_track(data).seconds > read_s + _MISSING_S


@contextmanager
def _opened_soundfile(data: bytes, max_s: float) -> Generator[Sound]:
    with _open(data) as file:
        check_layout(file.samplerate, file.channels)
        # libsndfile reads a FLAC's last block only where it knows its end, and of a chain of Ogg streams one.
        if file.frames == _UNKNOWN_FRAMES or is_chained_ogg(data):
            raise _NotWhole
        if file.frames > math.floor(max_s * file.samplerate) and file.format != "MP3":
            raise too_long(max_s)
        yield Sound(file.samplerate, _soundfile_blocks(file, data, max_s))


def _soundfile_blocks(file: soundfile.SoundFile, data: bytes, max_s: float) -> Generator[Samples]:
    rate, got = file.samplerate, 0
    most = math.floor(max_s * rate)
    while len(block := file.read(_BLOCK_FRAMES, dtype="float32", always_2d=True)):
        got += len(block)
        if got > most:
            raise too_long(max_s)
        yield to_mono(block.astype(np.float32, copy=False)).copy()
    if file.format == "MP3" and _is_missed(data, got / rate):
        raise _NotWhole
    if not got:
        raise invalid("The audio is empty.")
    if file.format == "FLAC" and got < file.frames:
        raise invalid("The file is truncated: it is shorter than its own headers say.")
