"""Real encoders and muxers, with the options that phones, recorders and pipes choose."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping, Sequence
from fractions import Fraction
from io import BytesIO, RawIOBase
from typing import Any

import av
import numpy as np
import soundfile

from tests.preprocess.test_files.rows import Pixels, Samples


class Pipe(RawIOBase):
    """Where a muxer cannot go back to write lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.written = bytearray()

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False

    def write(self, data: Any) -> int:
        self.written += bytes(data)
        return len(data)


def muxed(
    container: str,
    *,
    picture: tuple[str, Sequence[Pixels]] | None = None,
    fps: int = 12,
    ticks: Sequence[int] | None = None,
    sound: tuple[str, Samples, int] | None = None,
    late_s: float = 0.0,
    gap: tuple[float, float] | None = None,
    rotation: int = 0,
    flip: bool = False,
    aspect: Fraction | None = None,
    pipe: bool = False,
    mux: Mapping[str, str] | None = None,
    encoder: Mapping[str, str] | None = None,
) -> bytes:
    """Return a file with a picture (codec, frames) and a sound (codec, [frames, channels], rate).

    `ticks`: when each frame is shown, in units of 1/fps. `late_s`: how much later than the picture the sound begins.
    `gap`: from when on the sound is silent, and for how long; its packets are left out.
    """
    out: Any = Pipe() if pipe else BytesIO()
    with av.open(out, "w", format=container, options=dict(mux or {})) as file:
        film: Any = None
        if picture is not None:
            height, width = picture[1][0].shape[:2]
            film = file.add_stream(picture[0], rate=fps, options=dict(encoder or {}) if sound is None else {})
            film.width, film.height = width, height
            film.pix_fmt = "yuvj420p" if picture[0] == "mjpeg" else "yuv420p"
            if aspect is not None:
                film.codec_context.sample_aspect_ratio = aspect
            if rotation or flip:
                film.set_display_rotation(rotation, hflip=flip)
        track: Any = None
        if sound is not None:
            layout = {1: "mono", 2: "stereo", 6: "5.1", 8: "7.1"}[sound[1].shape[1]]
            track = file.add_stream(sound[0], rate=sound[2], layout=layout, options=dict(encoder or {}))
        if picture is not None:
            _mux_frames(file, film, picture[1], ticks)
        if sound is not None:
            _mux_sound(file, track, sound[1], sound[2], late_s, gap)
    return bytes(out.written) if pipe else out.getvalue()


def _mux_frames(file: Any, film: Any, frames: Sequence[Pixels], ticks: Sequence[int] | None) -> None:
    for i, pixels in enumerate(frames):
        frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
        frame.pts = ticks[i] if ticks is not None else i
        frame.time_base = 1 / film.codec_context.framerate
        file.mux(film.encode(frame))
    file.mux(film.encode(None))


def _mux_sound(
    file: Any, track: Any, samples: Samples, rate: int, late_s: float, gap: tuple[float, float] | None
) -> None:
    layout = track.layout.name
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
    frame.sample_rate, frame.pts = rate, 0
    frame.time_base = Fraction(1, rate)
    resampler = av.AudioResampler(
        format=track.format, layout=layout, rate=track.rate, frame_size=track.frame_size or 1024
    )
    for part in (*resampler.resample(frame), *resampler.resample(None)):
        part.pts = (part.pts or 0) + round(late_s * track.rate)
        _mux_packets(file, track.encode(part), gap)
    _mux_packets(file, track.encode(None), gap)


def _mux_packets(file: Any, packets: Sequence[Any], gap: tuple[float, float] | None) -> None:
    for packet in packets:
        if not packet.size:  # FLAC's last
            continue
        at_s = float((packet.pts or 0) * packet.time_base)
        if gap is None or not gap[0] <= at_s < gap[0] + gap[1]:
            file.mux(packet)


def written(samples: Samples, rate: int, kind: str, subtype: str, **options: Any) -> bytes:
    """Return a sound as libsndfile writes it."""
    out = BytesIO()
    soundfile.write(out, samples, rate, format=kind, subtype=subtype, **options)
    return out.getvalue()


def png(rows: Sequence[bytes], width: int, depth: int, colour: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of any depth and colour type (0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA), with `chunks`
    before its pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour, 0, 0, 0)
    return png_of((b"IHDR", header), *chunks, (b"IDAT", packed_rows(rows)), (b"IEND", b""))


def packed_rows(rows: Sequence[bytes]) -> bytes:
    """Return what a PNG holds of its rows."""
    return zlib.compress(b"".join(b"\0" + row for row in rows))


def png_of(*chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of these chunks (name, body)."""
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
