"""Films of every container and codec, turned, uneven, late and silent. Each frame's grey says its number, and its four
corners which way up it is."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from tests.preprocess.test_files.encode import muxed
from tests.preprocess.test_files.rows import Film, Pixels, Samples
from tests.preprocess.test_files.sounds import RATE, plain, sweep

HEIGHT, WIDTH = 64, 96
_DARKEST, _STEP = 40, 5
# Of the corners, clockwise from the top left: how red.
CORNERS = (250, 170, 90, 10)
# What is sampled of 24 frames at 12 a second: 2 a second, from the first to the last.
EVEN = (0, 8, 15, 23)


def frames(count: int = 24, size: tuple[int, int] = (HEIGHT, WIDTH)) -> list[Pixels]:
    """Return frames [height, width, 3]: a level of grey for each, and four corners of a fixed colour."""
    height, width = size
    out: list[Pixels] = []
    for i in range(count):
        pixels = np.full((height, width, 3), _DARKEST + _STEP * i, np.uint8)
        quarters = (
            (slice(None, height // 4), slice(None, width // 4)),
            (slice(None, height // 4), slice(-width // 4, None)),
            (slice(-height // 4, None), slice(-width // 4, None)),
            (slice(-height // 4, None), slice(None, width // 4)),
        )
        for quarter, red in zip(quarters, CORNERS, strict=True):
            pixels[quarter] = red
        out.append(pixels)
    return out


def number_of(frame: np.ndarray[Any, Any]) -> int:
    """Return the number of a frame [3, height, width], of any size, by the grey of its middle."""
    _, height, width = frame.shape
    middle = frame[:, height * 3 // 8 : height * 5 // 8, width * 3 // 8 : width * 5 // 8]
    return round((float(middle.mean()) - _DARKEST) / _STEP)


def corner_of(frame: np.ndarray[Any, Any], row: int, column: int) -> int:
    """Return which of CORNERS is at the top (row 0) or bottom (-1), left or right, of a frame."""
    _, height, width = frame.shape
    rows = slice(None, height // 8) if row == 0 else slice(-height // 8, None)
    columns = slice(None, width // 8) if column == 0 else slice(-width // 8, None)
    level = float(frame[:, rows, columns].mean())
    return int(np.abs(np.array(CORNERS) - level).argmin())


def of(container: str, codec: str, count: int = 24, size: tuple[int, int] = (HEIGHT, WIDTH), **options: Any) -> bytes:
    return muxed(container, picture=(codec, frames(count, size)), **options)


def sound() -> Samples:
    return sweep(2.0)


def held() -> Sequence[int]:
    """Return when 14 frames at 10 a second are shown: the tenth stays for two seconds."""
    return [*range(10), 30, 31, 32, 33]


def after(seconds: float) -> Samples:
    return np.concatenate((np.zeros(round(seconds * RATE), np.float32), plain(2.0)))


_TALKING: dict[str, Any] = {"sound": ("aac", sweep(2.0, 48_000), 48_000)}
_FRAME = 1100

FILMS = (
    Film("mp4 of H.264", lambda: of("mp4", "libx264"), EVEN),
    Film("mp4 of fragments", lambda: of("mp4", "libx264", mux={"movflags": "frag_keyframe+empty_moov"}), EVEN),
    Film("mp4 of MPEG-4", lambda: of("mp4", "mpeg4"), EVEN),
    Film("mov", lambda: of("mov", "libx264"), EVEN),
    Film("mov of JPEG", lambda: of("mov", "mjpeg"), EVEN),
    Film("3gp of H.263", lambda: of("3gp", "h263", size=(96, 128)), EVEN),
    Film("webm of VP8", lambda: of("webm", "libvpx", encoder={"deadline": "realtime"}), EVEN),
    Film("webm of VP9", lambda: of("webm", "libvpx-vp9", encoder={"deadline": "realtime", "cpu-used": "8"}), EVEN),
    Film(
        "webm from a pipe",
        lambda: of("webm", "libvpx", encoder={"deadline": "realtime"}, pipe=True, mux={"live": "1"}),
        EVEN,
    ),
    Film("mkv from a pipe", lambda: of("matroska", "libx264", pipe=True), EVEN),
    Film("avi of MPEG-4", lambda: of("avi", "mpeg4"), EVEN),
    Film("avi of MPEG-4 with B-frames", lambda: of("avi", "mpeg4", encoder={"bf": "2", "b": "3000000"}), EVEN),
    Film("avi of DivX 3", lambda: of("avi", "msmpeg4", encoder={"b": "3000000"}), EVEN),
    Film("avi of JPEG", lambda: of("avi", "mjpeg"), EVEN),
    Film("avi from a pipe", lambda: of("avi", "mpeg4", pipe=True), EVEN),
    Film("ts of H.264", lambda: of("mpegts", "libx264"), EVEN),
    Film("ts of MPEG-2", lambda: of("mpegts", "mpeg2video", fps=24), (0, 8, 15, 23)),
    Film("mpeg", lambda: of("vob", "mpeg2video", fps=24), (0, 8, 15, 23)),
    Film("flv of H.264", lambda: of("flv", "libx264"), EVEN),
    Film("flv of Sorenson", lambda: of("flv", "flv1"), EVEN),
    Film("mp4 turned by 90°", lambda: of("mp4", "libx264", rotation=90), EVEN, turned=1, upright=False),
    Film("mp4 turned by 180°", lambda: of("mp4", "libx264", rotation=180), EVEN, turned=2),
    Film("mov turned by 270°", lambda: of("mov", "libx264", rotation=270), EVEN, turned=3, upright=False),
    Film("mp4 mirrored", lambda: of("mp4", "libx264", flip=True), EVEN, turned=1),
    Film("mp4 of wide pixels", lambda: of("mp4", "libx264", aspect=Fraction(2)), EVEN),
    Film("mp4 of uneven frames", lambda: of("mp4", "libx264", 14, fps=10, ticks=held()), (0, 7, 9, 9, 9, 13)),
    Film(
        "webm of uneven frames",
        lambda: of("webm", "libvpx", 14, fps=10, ticks=held(), encoder={"deadline": "realtime"}),
        (0, 7, 9, 9, 9, 13),
    ),
    Film("mkv that begins at 5 s", lambda: of("matroska", "libx264", ticks=range(60, 84)), EVEN),
    Film(
        "mp4 that is heard",
        lambda: of("mp4", "libx264", **_TALKING),
        EVEN,
        heard=True,
        plays=lambda: plain(2.0, 48_000),
        within=_FRAME,
    ),
    Film(
        "mp4 whose sound is late",
        lambda: of("mp4", "libx264", late_s=0.5, **_TALKING),
        EVEN,
        heard=True,
        plays=lambda: after(0.5),
        within=_FRAME,
    ),
    Film(
        "mkv whose sound is late",
        lambda: of("matroska", "libx264", late_s=0.5, **_TALKING),
        EVEN,
        heard=True,
        plays=lambda: after(0.5),
        within=2 * _FRAME,
    ),
    Film(
        "avi that is heard",
        lambda: of("avi", "mpeg4", sound=("pcm_s16le", sound(), RATE)),
        EVEN,
        heard=True,
        plays=lambda: plain(2.0),
    ),
    Film(
        "mkv whose picture is late",
        lambda: of("matroska", "libx264", ticks=range(12, 36), **_TALKING),
        (0, 0, 2, 9, 16, 23),
        heard=True,
        plays=lambda: plain(2.0, 48_000),
        within=2 * _FRAME,
    ),
    Film("mp4 without sound, to be heard", lambda: of("mp4", "libx264"), EVEN, heard=True),
)
