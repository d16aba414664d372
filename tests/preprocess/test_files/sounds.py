"""Sounds of every container, sample format, rate and layout. Their sibling is a sweep as it is before it is written."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from services.preprocess.media.samples import finish
from tests.preprocess.test_files.encode import muxed, written
from tests.preprocess.test_files.rows import Samples, Sound

RATE = 16_000


def sweep(seconds: float = 0.8, rate: int = RATE, channels: int = 1) -> Samples:
    """Return [frames, channels]: a sweep of pitch, the same on each channel but for its loudness."""
    t = np.arange(round(seconds * rate)) / rate
    wave = 0.4 * np.sin(2 * np.pi * (300 * t + 500 * t * t))
    return (wave[:, None] * np.linspace(1, 0.5, channels)).astype(np.float32)


def plain(seconds: float = 0.8, rate: int = RATE, channels: int = 1) -> Samples:
    """Return [samples] at 16 kHz of the sweep."""
    return finish([sweep(seconds, rate, channels).mean(axis=1)], rate)


def silence(seconds: float) -> Samples:
    return np.zeros((round(seconds * RATE), 1), np.float32)


def wav() -> bytearray:
    return bytearray(written(sweep(), RATE, "WAV", "PCM_16"))


def told(riff: int | None, samples: int, file: Callable[[], bytearray] = wav) -> bytes:
    """Return a WAV whose headers tell other lengths."""
    data = file()
    at = data.index(b"data") + 4
    data[at : at + 4] = struct.pack("<I", samples)
    if riff is not None:
        data[4:8] = struct.pack("<I", riff)
    return bytes(data)


def of(container: str, codec: str, rate: int = RATE, channels: int = 1, **options: Any) -> bytes:
    return muxed(container, sound=(codec, sweep(rate=rate, channels=channels), rate), **options)


def loud_then_quiet() -> Samples:
    """Return a sound of which the first second needs many bits a second, and the rest none."""
    noise = np.random.default_rng(0).standard_normal((RATE, 1)).astype(np.float32) * 0.3
    return np.concatenate((noise, silence(8.0), sweep()))


def vbr_without_a_tag() -> bytes:
    return muxed(
        "mp3",
        sound=("libmp3lame", loud_then_quiet(), RATE),
        mux={"write_xing": "0"},
        encoder={"flags": "+qscale", "global_quality": "1062"},
    )


def tagged(data: bytes) -> bytes:
    """Return the file behind an ID3 tag with a picture's worth of bytes."""
    size = 20_000
    return b"ID3\4\0\0" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + bytes(size) + data


def twice(make: Callable[[], bytes]) -> bytes:
    return make() + make()


def trimmed() -> bytes:
    """Return an m4a whose edit list begins half a second into its samples."""
    data = bytearray(of("mp4", "alac"))
    at = data.index(b"elst") + 8  # the version, the flags
    count, duration, begin = struct.unpack(">IIi", data[at : at + 12])
    assert (count, begin) == (1, 0), (count, begin)
    data[at : at + 12] = struct.pack(">IIi", 1, duration * 3 // 8, RATE // 2)
    return bytes(data)


def chained() -> bytes:
    return written(sweep(0.5), RATE, "OGG", "VORBIS") + written(sweep(), RATE, "OGG", "VORBIS")


def with_pause() -> Samples:
    whole = plain(2.4)
    whole[round(0.8 * RATE) : round(1.6 * RATE)] = 0
    return whole


def _wav(name: str, subtype: str, rate: int = RATE, channels: int = 1) -> Sound:
    samples = partial(sweep, 0.8, rate, channels)
    return Sound(
        f"wav of {name}", lambda: written(samples(), rate, "WAV", subtype), partial(plain, 0.8, rate, channels)
    )


# A codec's frame at most: encoders fill the last one.
_FRAME = 1100

SOUNDS = (
    _wav("8-bit", "PCM_U8"),
    _wav("16-bit at 8 kHz", "PCM_16", 8000),
    _wav("16-bit at 44.1 kHz, stereo", "PCM_16", 44_100, 2),
    _wav("16-bit at 192 kHz", "PCM_16", 192_000),
    _wav("24-bit at 48 kHz", "PCM_24", 48_000),
    _wav("32-bit", "PCM_32"),
    _wav("floats", "FLOAT"),
    _wav("double floats", "DOUBLE"),
    _wav("A-law at 8 kHz", "ALAW", 8000),
    _wav("µ-law at 8 kHz", "ULAW", 8000),
    Sound("wav of IMA ADPCM", lambda: written(sweep(), RATE, "WAV", "IMA_ADPCM"), plain, _FRAME, alike=0.98),
    Sound("wav of MS ADPCM", lambda: written(sweep(), RATE, "WAV", "MS_ADPCM"), plain, _FRAME, alike=0.98),
    Sound(
        "extensible wav of 8 channels",
        lambda: written(sweep(channels=8), RATE, "WAVEX", "PCM_24"),
        partial(plain, 0.8, RATE, 8),
    ),
    Sound("extensible wav of floats", lambda: written(sweep(), RATE, "WAVEX", "FLOAT"), plain),
    Sound("wav of another byte order", lambda: written(sweep(), RATE, "WAV", "PCM_16", endian="BIG"), plain),
    Sound("wav of RIFF length 0", lambda: told(0, 25_600), plain),
    Sound("wav of length 0", lambda: told(0, 0), plain),
    Sound("wav of samples' length 0", lambda: told(None, 0), plain),
    Sound("wav of unknown length", lambda: told(0xFFFFFFFF, 0xFFFFFFFF), plain),
    Sound("wav of the largest signed length", lambda: told(0x7FFFFFFF, 0x7FFFFFFF - 36), plain),
    Sound(
        "wav of floats, length 0",
        lambda: told(0, 0, lambda: bytearray(written(sweep(), RATE, "WAV", "FLOAT"))),
        plain,
    ),
    Sound("wav from a pipe", lambda: of("wav", "pcm_s16le", pipe=True), plain),
    Sound("rf64", lambda: written(sweep(), RATE, "RF64", "PCM_16"), plain),
    Sound("w64", lambda: written(sweep(), RATE, "W64", "PCM_16"), plain),
    Sound("au", lambda: written(sweep(), RATE, "AU", "PCM_16"), plain),
    Sound("au from a pipe", lambda: of("au", "pcm_s16be", pipe=True), plain),
    Sound("aiff", lambda: of("aiff", "pcm_s16be"), plain),
    Sound("aiff of 24 bits at 48 kHz", lambda: of("aiff", "pcm_s24be", 48_000), plain),
    Sound("aiff from a pipe", lambda: of("aiff", "pcm_s16be", pipe=True), plain),
    Sound("aifc of floats", lambda: written(sweep(), RATE, "AIFF", "FLOAT"), plain),
    Sound("caf", lambda: of("caf", "pcm_s16le"), plain),
    Sound("caf from a pipe", lambda: of("caf", "pcm_s16le", pipe=True), plain),
    # FFmpeg drops the padding of the last packet twice.
    Sound("caf of ALAC", lambda: of("caf", "alac", 44_100), partial(plain, 0.8, 44_100), 600),
    Sound("flac", lambda: written(sweep(), RATE, "FLAC", "PCM_16"), plain),
    Sound(
        "flac of 24 bits and 8 channels",
        lambda: written(sweep(channels=8), RATE, "FLAC", "PCM_24"),
        partial(plain, 0.8, RATE, 8),
    ),
    Sound("flac behind an ID3 tag", lambda: tagged(written(sweep(), RATE, "FLAC", "PCM_16")), plain),
    Sound("flac from a pipe", lambda: of("flac", "flac", pipe=True), plain),
    Sound(
        "flac of 96 kHz from a pipe", lambda: of("flac", "flac", 96_000, 2, pipe=True), partial(plain, 0.8, 96_000, 2)
    ),
    Sound("mp3", lambda: of("mp3", "libmp3lame"), plain),
    Sound("mp3 of 44.1 kHz, stereo", lambda: of("mp3", "libmp3lame", 44_100, 2), partial(plain, 0.8, 44_100, 2)),
    Sound("mp3 of 8 kHz", lambda: of("mp3", "libmp3lame", 8000), partial(plain, 0.8, 8000)),
    Sound("mp3 without a tag", lambda: of("mp3", "libmp3lame", mux={"write_xing": "0"}), plain, 3000, late=1105),
    Sound("mp3 of variable rate without a tag", vbr_without_a_tag, lambda: loud_then_quiet()[:, 0], 3000, 1105, 0.8),
    Sound("mp3 behind an ID3 tag", lambda: tagged(of("mp3", "libmp3lame")), plain),
    Sound(
        "mp3 joined from two",
        lambda: twice(lambda: of("mp3", "libmp3lame")),
        lambda: np.tile(plain(), 2),
        3500,
        alike=0.3,
    ),
    Sound("ogg of Vorbis", lambda: written(sweep(), RATE, "OGG", "VORBIS"), plain),
    Sound("ogg of Opus", lambda: of("ogg", "libopus", 48_000), partial(plain, 0.8, 48_000), alike=0.98),
    Sound(
        "ogg of Opus that begins at 100 s",
        lambda: of("ogg", "libopus", 48_000, late_s=100.0),
        partial(plain, 0.8, 48_000),
        400,
        alike=0.98,
    ),
    Sound("ogg joined from two", chained, lambda: np.concatenate((plain(0.5), plain())), _FRAME, alike=0.3),
    Sound("adts aac", lambda: of("adts", "aac"), plain, 2 * _FRAME, late=1024),
    Sound("adts aac behind an ID3 tag", lambda: tagged(of("adts", "aac")), plain, 2 * _FRAME, late=1024),
    Sound("m4a", lambda: of("mp4", "aac"), plain, _FRAME),
    Sound(
        "m4a of fragments",
        lambda: of("mp4", "aac", mux={"movflags": "frag_keyframe+empty_moov"}),
        plain,
        2 * _FRAME,
        late=1024,
    ),
    Sound("m4a with an edit list", trimmed, lambda: plain()[8000:], _FRAME),
    Sound("amr", lambda: of("amr", "libopencore_amrnb", 8000), partial(plain, 0.8, 8000), 400, late=79, alike=0.97),
    Sound(
        "3gp of AMR", lambda: of("3gp", "libopencore_amrnb", 8000), partial(plain, 0.8, 8000), 400, late=-21, alike=0.97
    ),
    Sound("mov of PCM", lambda: of("mov", "pcm_s16le", 48_000, 2), partial(plain, 0.8, 48_000, 2)),
    Sound("webm of Opus", lambda: of("webm", "libopus", 48_000), partial(plain, 0.8, 48_000), 400, alike=0.98),
    Sound(
        "webm of Opus from a pipe",
        lambda: of("webm", "libopus", 48_000, pipe=True, mux={"live": "1"}),
        partial(plain, 0.8, 48_000),
        400,
        alike=0.98,
    ),
    Sound(
        "webm with a pause",
        lambda: muxed("webm", sound=("libopus", sweep(2.4, 48_000), 48_000), gap=(0.8, 0.8)),
        with_pause,
        400,
        alike=0.6,
    ),
    Sound("mka of FLAC", lambda: of("matroska", "flac"), plain),
    Sound("ts of AAC", lambda: of("mpegts", "aac"), plain, 2 * _FRAME, late=1024),
    Sound(
        "ts of AC-3", lambda: of("mpegts", "ac3", 48_000), partial(plain, 0.8, 48_000), 2 * _FRAME, late=85, alike=0.98
    ),
    Sound("flv of MP3", lambda: of("flv", "libmp3lame", 44_100), partial(plain, 0.8, 44_100), 2000, late=401),
    Sound("avi of PCM", lambda: of("avi", "pcm_s16le"), plain),
    Sound("mp2", lambda: of("mpegts", "mp2", 48_000), partial(plain, 0.8, 48_000), 2000, late=160, alike=0.9),
)
