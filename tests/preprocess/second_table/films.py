"""Films of phones, cameras, editors and servers: which frames are seen, and where their sound has its impulse."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from io import BytesIO
from typing import Any

import av

from tests.preprocess.second_table.rows import Seen
from tests.preprocess.second_table.sounds import CLICK, click
from tests.preprocess.test_files.encode import muxed
from tests.preprocess.test_files.films import frames

_SOUND: dict[str, Any] = {"sound": ("aac", click(48_000, seconds=2.0), 48_000)}
_QUIET = {"x265-params": "log-level=none"}
# What is sampled of 24 frames at 12 a second, and of 12.
EVEN, SHORT = (0, 8, 15, 23), (0, 4, 7, 11)


def of(container: str, codec: str, count: int = 24, **options: Any) -> bytes:
    return muxed(container, picture=(codec, frames(count, options.pop("size", (64, 96)))), **options)


def coded(
    container: str,
    codec: str,
    pix_fmt: str,
    *,
    count: int = 24,
    size: tuple[int, int] = (64, 96),
    rate: int = 12,
    offset: int = 0,
    encoder: Mapping[str, str] | None = None,
) -> bytes:
    """Return a film of any pixel format. `offset`: the time of its first frame, in units of 1/rate."""
    out = BytesIO()
    with av.open(out, "w", format=container) as file:
        film: Any = file.add_stream(codec, rate=rate, options=dict(encoder or {}))
        film.height, film.width, film.pix_fmt = *size, pix_fmt
        for i, pixels in enumerate(frames(count, size)):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = i + offset, 1 / film.codec_context.framerate
            file.mux(film.encode(frame))
        file.mux(film.encode(None))
    return out.getvalue()


def grows() -> bytes:
    """Return a film of JPEGs of which the later ones are larger: a camera that turned."""
    out = BytesIO()
    with av.open(out, "w", format="matroska") as file:
        film: Any = file.add_stream("mjpeg", rate=12)
        film.width, film.height, film.pix_fmt = 96, 64, "yuvj420p"
        for i, pixels in enumerate((*frames(12), *frames(24, (96, 144))[12:])):
            one: Any = av.CodecContext.create("mjpeg", "w")
            one.height, one.width, _ = pixels.shape
            one.pix_fmt, one.time_base = "yuvj420p", Fraction(1, 12)
            for packet in one.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuvj420p")):
                packet.stream, packet.time_base = film, Fraction(1, 12)
                packet.pts = packet.dts = i
                file.mux(packet)
    return out.getvalue()


def edited() -> bytes:
    """Return an mp4 whose edit list begins with its 13th frame: trimmed on a phone."""
    data = bytearray(of("mp4", "libx264", encoder={"bf": "0", "g": "1"}))
    at = data.index(b"elst") + 8
    count, duration, begin = struct.unpack_from(">IIi", data, at)
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    assert (count, begin) == (1, 0), (count, begin)
    struct.pack_into(">IIi", data, at, 1, duration // 2, timescale)
    return bytes(data)


def index_lost() -> bytes:
    """Return an AVI without its index, as a camera leaves it that lost its power."""
    data = of("avi", "mpeg4")
    at = data.rindex(b"idx1")
    cut = bytearray(data[:at])
    cut[4:8] = struct.pack("<I", len(cut) - 8)
    return bytes(cut)


def with_boxes_behind(data: bytes) -> bytes:
    own = struct.pack(">I", 40) + b"uuid" + bytes(32)
    return data + own + struct.pack(">I", 8) + b"free"


def ahead(container: str, codec: str) -> bytes:
    """Return a film whose picture begins half a second after its sound."""
    return of(container, codec, ticks=range(6, 30), **_SOUND)


def paused() -> Sequence[int]:
    """Return when 12 frames at 12 a second are shown: the last but one stays for two seconds."""
    return [*range(11), 34]


def seen(name: str, make: Callable[[], bytes], expected: tuple[int, ...] = EVEN, **more: Any) -> Seen:
    return Seen(name, make, expected, **more)


SEEN = (
    seen("mp4 of H.265", lambda: coded("mp4", "libx265", "yuv420p", encoder=_QUIET)),
    seen("mp4 of AV1", lambda: coded("mp4", "libsvtav1", "yuv420p", encoder={"preset": "11", "svtav1-params": "lp=1"})),
    seen("mp4 of H.264 of 10 bits", lambda: coded("mp4", "libx264", "yuv420p10le")),
    seen("mp4 of H.264 of 4:4:4", lambda: coded("mp4", "libx264", "yuv444p")),
    seen("mp4 of H.264 of 4:2:2", lambda: coded("mp4", "libx264", "yuv422p")),
    seen("mp4 of H.264 of RGB", lambda: coded("mp4", "libx264rgb", "rgb24")),
    seen("mp4 of H.264 of the full range", lambda: coded("mp4", "libx264", "yuvj420p")),
    seen("mp4 of an odd size", lambda: coded("mp4", "libx264", "yuv444p", size=(65, 97))),
    seen("mp4 of many B-frames", lambda: coded("mp4", "libx264", "yuv420p", encoder={"bf": "8", "b_strategy": "2"})),
    seen(
        "webm of VP9 of 4:4:4",
        lambda: coded("webm", "libvpx-vp9", "yuv444p", encoder={"deadline": "realtime", "cpu-used": "8"}),
    ),
    seen("mkv of MPEG-1", lambda: coded("matroska", "mpeg1video", "yuv420p", rate=24, encoder={"b": "2000000"}), EVEN),
    seen("mp4 of one frame a second", lambda: coded("mp4", "libx264", "yuv420p", count=6, rate=1), (0, 1, 2, 3, 4, 5)),
    seen("mp4 of 60 frames a second", lambda: coded("mp4", "libx264", "yuv420p", count=36, rate=60), (0, 12, 23, 35)),
    seen("mp4 of two frames", lambda: coded("mp4", "libx264", "yuv420p", count=2), (0, 1)),
    seen("mp4 of 12 frames, at four a second", lambda: of("mp4", "libx264", 12), SHORT, fps=4.0),
    seen("mp4 that is trimmed", edited, (12, 16, 19, 23)),
    seen("mp4 with boxes behind it", lambda: with_boxes_behind(of("mp4", "libx264"))),
    seen(
        "mp4 of fragments a frame",
        lambda: of("mp4", "libx264", mux={"movflags": "frag_every_frame+empty_moov+default_base_moof"}, pipe=True),
    ),
    seen("mp4 with a pause at its end", lambda: of("mp4", "libx264", 12, ticks=paused()), (0, 10, 10, 11)),
    seen(
        "ts of a broadcast of a day",
        lambda: coded("mpegts", "mpeg2video", "yuv420p", rate=24, offset=95_443 * 24, encoder={"b": "2000000"}),
    ),
    seen("ts of H.265", lambda: coded("mpegts", "libx265", "yuv420p", encoder=_QUIET)),
    seen("avi without its index", index_lost),
    seen("mkv whose frames grow", grows),
    seen("mov turned and heard", lambda: of("mov", "libx264", rotation=180, **_SOUND), turned=2, click=CLICK),
    seen(
        "mp4 that is heard from half a second on",
        lambda: of("mp4", "libx264", late_s=0.5, **_SOUND),
        click=CLICK + 8000,
    ),
    seen("mp4 whose picture is late", lambda: ahead("mp4", "libx264"), (0, 4, 13, 23), click=CLICK),
    seen("ts that is heard", lambda: of("mpegts", "libx264", **_SOUND), click=CLICK + 341),
    seen("flv that is heard", lambda: of("flv", "libx264", **_SOUND), click=CLICK + 341),
)
