"""Sounds of phones, exchanges, editors and archives: how long they are at 16 kHz, and where there is an impulse."""

from __future__ import annotations

import struct
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from io import BytesIO
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from tests.preprocess.second_table.rows import Heard
from tests.preprocess.test_files.encode import muxed, written
from tests.preprocess.test_files.rows import Samples
from tests.preprocess.test_files.sounds import RATE, tagged

# Of a file of 0.6 s.
LENGTH, CLICK = 9600, 4000


def click(rate: int = RATE, channels: int = 1, at_s: float = CLICK / RATE, seconds: float = 0.6) -> Samples:
    """Return [frames, channels]: silence, and 2 ms at `at_s` that rise and fall, so that any codec and rate keeps
    them."""
    t = np.arange(round(seconds * rate)) / rate - at_s
    wave = np.where(np.abs(t) < 0.001, 0.9 * np.cos(t * np.pi / 0.002), 0)
    return np.repeat(wave[:, None], channels, axis=1).astype(np.float32)


def of(kind: str, subtype: str, rate: int = RATE, channels: int = 1, **options: Any) -> bytes:
    return written(click(rate, channels), rate, kind, subtype, **options)


def in_container(container: str, codec: str, rate: int = RATE, channels: int = 1, **options: Any) -> bytes:
    return muxed(container, sound=(codec, click(rate, channels), rate), **options)


# WAV


def samples_16() -> bytes:
    return (click()[:, 0] * 32767).astype("<i2").tobytes()


def layout(tag: int = 1, rate: int = RATE, channels: int = 1, bits: int = 16, more: bytes = b"") -> bytes:
    block = channels * bits // 8
    return struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits) + more


def riff(*chunks: tuple[bytes, bytes], length: int | None = None) -> bytes:
    """Return a WAV of these chunks (name, body)."""
    body = b"WAVE" + b"".join(
        name + struct.pack("<I", len(data)) + data + bytes(len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", len(body) if length is None else length) + body


def wav(*before: tuple[bytes, bytes], fmt: bytes | None = None, after: tuple[tuple[bytes, bytes], ...] = ()) -> bytes:
    return riff(*before, (b"fmt ", fmt or layout()), (b"data", samples_16()), *after)


INFO = (b"LIST", b"INFOISFT\x0e\0\0\0Lavf61.7.100\0\0")


def wrong_rates() -> bytes:
    """Return a WAV whose bytes a second are 0, as some recorders leave them."""
    fmt = bytearray(layout())
    fmt[8:12] = bytes(4)
    return wav(fmt=bytes(fmt))


def valid_bits() -> bytes:
    """Return 20 bits a sample in three bytes each."""
    values = (click()[:, 0] * (1 << 19)).astype(np.int32) << 4
    packed = values.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    guid = b"\1\0\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    return riff((b"fmt ", layout(0xFFFE, bits=24, more=struct.pack("<HHI", 22, 20, 4) + guid)), (b"data", packed))


def length_of_one_sample_more() -> bytes:
    """Return a WAV of an odd number of bytes, of which the last is half a sample."""
    data = samples_16() + b"\1"
    return riff((b"fmt ", layout()), (b"data", data)).removesuffix(b"\0")


def unwritten_before_info() -> bytes:
    """Return a WAV of a pipe: all lengths unknown, and no chunk behind the samples."""
    data = bytearray(wav(INFO))
    at = data.index(b"data") + 4
    data[4:8] = data[at : at + 4] = b"\xff\xff\xff\xff"
    return bytes(data)


def opposite() -> bytes:
    """Return two channels that cancel each other out but for the click at half its height in one of them."""
    wave = 0.5 * np.sin(np.arange(LENGTH) / 9)
    both = np.stack((wave, -wave), axis=1)
    return written((both + click() * (0.0, 0.9)).astype(np.float32), RATE, "WAV", "FLOAT")


def one_of_six() -> bytes:
    """Return six channels, of which one clicks."""
    sound = np.zeros((LENGTH, 6), np.float32)
    sound[:, 3] = click()[:, 0]
    return written(sound, RATE, "WAVEX", "PCM_16")


# AIFF and AU


def chunk(name: bytes, data: bytes) -> bytes:
    return name + struct.pack(">I", len(data)) + data + bytes(len(data) % 2)


def extended(rate: int) -> bytes:
    """Return a rate as an IEEE number of 80 bits."""
    shift = rate.bit_length() - 1
    return struct.pack(">HQ", 16383 + shift, rate << 63 - shift)


def aiff(bits: int, samples: bytes, *, form: bytes = b"AIFF", codec: bytes = b"", offset: int = 0) -> bytes:
    name = codec + b"\0\0" if codec else b""
    common = struct.pack(">hIh", 1, LENGTH, bits) + extended(RATE) + name
    sound = struct.pack(">II", offset, 0) + bytes(offset) + samples
    body = form + chunk(b"COMM", common) + chunk(b"ANNO", b"odd") + chunk(b"SSND", sound)
    return b"FORM" + struct.pack(">I", len(body)) + body


def big_16() -> bytes:
    return np.frombuffer(samples_16(), "<i2").astype(">i2").tobytes()


def au(encoding: int, samples: bytes, note: bytes = b"", rate: int = RATE) -> bytes:
    return struct.pack(">4sIIIII", b".snd", 24 + len(note), len(samples), encoding, rate, 1) + note + samples


# MP3, AAC and Ogg


def mp3(**options: Any) -> bytes:
    return in_container("mp3", "libmp3lame", **options)


def with_old_tag(data: bytes) -> bytes:
    """Return the file with an ID3 tag of version 1 behind it."""
    return data + b"TAG" + b"Title".ljust(125, b"\0")


def with_lost_frames() -> bytes:
    """Return an MP3 of 2 s with zeros over 300 bytes of a silent part, behind the click at 0.25 s."""
    data = bytearray(muxed("mp3", sound=("libmp3lame", click(seconds=2.0), RATE)))
    at = len(data) * 3 // 4
    data[at : at + 300] = bytes(300)
    return bytes(data)


def behind_junk(data: bytes) -> bytes:
    return b"\xff\xfb" + bytes(500) + data


def index_first() -> bytes:
    """Return an m4a with its index before its samples, as shops and phones write it."""
    data = in_container("mp4", "aac")
    at = data.index(b"moov") - 4
    index = bytearray(data[at:])
    begin = data.index(b"mdat") - 4
    places = index.index(b"stco") + 8
    (count,) = struct.unpack_from(">I", index, places)
    offsets = struct.unpack_from(f">{count}I", index, places + 4)
    struct.pack_into(f">{count}I", index, places + 4, *(offset + len(index) for offset in offsets))
    return data[:begin] + index + data[begin:at]


def with_cover(data: bytes) -> bytes:
    """Return the FLAC with a picture before its samples."""
    picture = b"\x89PNG" + bytes(40_000)
    kind = b"image/png"
    block = struct.pack(">II", 3, len(kind)) + kind + bytes(20) + struct.pack(">I", len(picture)) + picture
    first = 4 + 4 + 34
    info = bytearray(data[:first])
    info[4] &= 0x7F  # it is not the last one
    return bytes(info) + bytes((6,)) + len(block).to_bytes(3, "big") + block + data[first:]


def covered() -> bytes:
    """Return an m4a with the cover of its album, a still picture among its streams."""
    out = BytesIO()
    with av.open(out, "w", format="mp4") as file:
        cover: Any = file.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        track = file.add_stream("aac", rate=RATE, layout="mono")
        file.mux(cover.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        file.mux(cover.encode(None))
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(click().T), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = RATE, 0, Fraction(1, RATE)
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return out.getvalue()


def pre_skip(samples_48k: int) -> bytes:
    """Return an Ogg Opus that tells its player to leave out so many samples more at its begin."""
    data = bytearray(in_container("ogg", "libopus", 48_000))
    at = data.index(b"OpusHead") + 10
    (skipped,) = struct.unpack("<H", data[at : at + 2])
    data[at : at + 2] = struct.pack("<H", skipped + samples_48k)
    return ogg_checked(bytes(data))


def ogg_checked(data: bytes) -> bytes:
    """Return an Ogg file with the right checksum on its first page."""
    end = 27 + data[26] + sum(data[27 : 27 + data[26]])
    page = data[:22] + bytes(4) + data[26:end]
    crc = 0
    for byte in page:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1 ^ (0x04C11DB7 if crc >> 31 else 0)) & 0xFFFFFFFF
    return data[:22] + struct.pack("<I", crc) + data[26:]


def plain(
    name: str,
    make: Callable[[], bytes],
    *,
    samples: int = LENGTH,
    click: int = CLICK,
    within: int = 0,
    near: int = 1,
    height: float = 0.6,
) -> Heard:
    return Heard(name, make, samples, click, within, near, height)


# A frame of a codec at most, which its encoder fills.
_FRAME = 1200

HEARD = (
    *(
        plain(f"wav at {rate} Hz", partial(of, "WAV", "PCM_16", rate))
        for rate in (11_025, 12_000, 22_050, 32_000, 88_200, 384_000)
    ),
    plain("wav at 7350 Hz", partial(of, "WAV", "PCM_16", 7350), within=1),
    plain("wav with a title before its samples", lambda: wav(INFO)),
    plain("wav with a chunk of an odd length", lambda: wav((b"bext", b"odd"))),
    plain("wav with a title behind its samples", lambda: wav(after=(INFO, (b"id3 ", b"ID3\4\0\0\0\0\0\0")))),
    plain("wav with a longer header", lambda: wav(fmt=layout(more=b"\0\0"))),
    plain("wav without a right byte rate", wrong_rates),
    plain("wav of 20 bits in 24", valid_bits),
    plain("wav with half a sample at its end", length_of_one_sample_more),
    plain("wav of a pipe with a title", unwritten_before_info),
    plain("wav of MP3", partial(in_container, "wav", "libmp3lame"), within=2 * _FRAME, near=1200, height=0.4),
    plain("wav of opposite channels", opposite, height=0.4),
    plain("wav of six channels, one of which is heard", one_of_six, height=0.14),
    plain("rf64 of floats", partial(of, "RF64", "FLOAT")),
    plain("w64 of 24 bits at 48 kHz", partial(of, "W64", "PCM_24", 48_000)),
    plain("aiff of 8 bits", lambda: aiff(8, (click()[:, 0] * 127).astype(np.int8).tobytes())),
    plain("aiff with an offset", lambda: aiff(16, big_16(), offset=64)),
    plain("aifc of little-endian samples", lambda: aiff(16, samples_16(), form=b"AIFC", codec=b"sowt")),
    plain("aifc of µ-law", partial(of, "AIFF", "ULAW", 8000)),
    plain("aifc of doubles", partial(of, "AIFF", "DOUBLE")),
    plain("aifc of IMA ADPCM", partial(in_container, "aiff", "adpcm_ima_qt"), within=64, height=0.4),
    plain("caf of floats", partial(of, "CAF", "FLOAT")),
    plain("caf of A-law", partial(of, "CAF", "ALAW", 8000)),
    plain("caf of IMA ADPCM", partial(in_container, "caf", "adpcm_ima_qt"), within=64, height=0.4),
    plain("au of µ-law", partial(of, "AU", "ULAW", 8000)),
    plain("au of doubles", partial(of, "AU", "DOUBLE")),
    plain("au with a note", lambda: au(3, big_16(), b"a note of a workstation\0" * 40)),
    plain("flac of 8 bits", partial(of, "FLAC", "PCM_S8")),
    plain("flac with a cover", lambda: with_cover(of("FLAC", "PCM_16"))),
    plain("flac at 192 kHz, stereo", partial(of, "FLAC", "PCM_24", 192_000, 2)),
    plain("ogg of FLAC", partial(in_container, "ogg", "flac")),
    plain("mp3 with an old tag", lambda: with_old_tag(mp3())),
    plain("mp3 with two tags", lambda: tagged(tagged(mp3()))),
    plain("mp3 of variable rate", lambda: mp3(encoder={"flags": "+qscale", "global_quality": "236"})),
    plain("mp3 of 48 kHz, stereo", lambda: mp3(rate=48_000, channels=2)),
    plain("mp3 of 24 kHz", lambda: mp3(rate=24_000)),
    plain("mp3 with lost frames", with_lost_frames, samples=2 * RATE, within=2400),
    plain("mp3 behind junk", lambda: behind_junk(mp3()), within=2 * _FRAME, near=1300),
    plain("m4a with its index first", index_first, within=_FRAME),
    plain("m4a with a cover", covered, within=_FRAME),
    plain("m4a of ALAC at 44.1 kHz, stereo", partial(in_container, "mp4", "alac", 44_100, 2), within=600),
    plain("m4a of AAC at 44.1 kHz", partial(in_container, "mp4", "aac", 44_100), within=_FRAME, height=0.4),
    plain("m4a of Opus", partial(in_container, "mp4", "libopus", 48_000), within=400, height=0.4),
    plain("m4a of FLAC", partial(in_container, "mp4", "flac")),
    plain("ogg of Opus at 8 kHz", partial(in_container, "ogg", "libopus", 8000), near=4, height=0.3),
    plain(
        "ogg of Opus with more pre-skip",
        lambda: pre_skip(4800),
        samples=LENGTH - 1600,
        click=CLICK - 1600,
        near=3,
        height=0.3,
    ),
    plain(
        "ogg of Opus in frames of 60 ms",
        lambda: in_container("ogg", "libopus", 48_000, encoder={"frame_duration": "60"}),
        near=4,
        height=0.3,
    ),
    plain("ogg of Vorbis at 44.1 kHz, stereo", partial(of, "OGG", "VORBIS", 44_100, 2), height=0.4),
    plain(
        "webm of Opus that begins with silence",
        partial(in_container, "webm", "libopus", 48_000),
        within=400,
        near=4,
        height=0.3,
    ),
    plain("mka of PCM", partial(in_container, "matroska", "pcm_s24le")),
    plain("mka of E-AC-3", partial(in_container, "matroska", "eac3", 48_000), within=_FRAME, near=100, height=0.3),
    plain("mka of AC-3 5.1", partial(in_container, "matroska", "ac3", 48_000, 6), within=_FRAME, near=100, height=0.3),
    plain("avi of MP3", partial(in_container, "avi", "libmp3lame", 44_100), within=2 * _FRAME, near=500, height=0.4),
    plain("mov of µ-law", partial(in_container, "mov", "pcm_mulaw", 8000), near=2),
)
