"""Small media files with known decoded content, so that the oracle needs none of our decoding.

Nothing is resized, dropped or resampled: sizes are multiples of 32 within the pixel bounds, videos have the frame rate
that the request asks for, and sound has 16 kHz.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

import av
import numpy as np
import soundfile
from numpy.typing import NDArray
from PIL import Image

SAMPLE_RATE = 16_000


@dataclass(frozen=True)
class Sound:
    """A chirp as 16-bit WAV."""

    seconds: float = 1.7
    hertz: float = 220.0
    seed: int = 0

    @property
    def pcm(self) -> NDArray[np.int16]:
        t = np.arange(int(SAMPLE_RATE * self.seconds)) / SAMPLE_RATE
        wave = 0.3 * np.sin(2 * np.pi * self.hertz * t) * (1 + 0.5 * np.sin(6 * np.pi * t))
        wave += 0.01 * np.random.default_rng(self.seed).standard_normal(t.size)
        return (wave * 32767).astype(np.int16)

    @property
    def decoded(self) -> NDArray[np.float32]:
        return self.pcm.astype(np.float32) / np.float32(32768)

    @property
    def file(self) -> bytes:
        out = io.BytesIO()
        soundfile.write(out, self.pcm, SAMPLE_RATE, format="WAV", subtype="PCM_16")
        return out.getvalue()


@dataclass(frozen=True)
class Picture:
    """Coloured squares as PNG."""

    width: int = 224
    height: int = 224
    seed: int = 0

    @property
    def decoded(self) -> Image.Image:
        squares = np.random.default_rng(self.seed).integers(0, 255, (self.height // 16, self.width // 16, 3))
        return Image.fromarray(np.kron(squares, np.ones((16, 16, 1))).astype(np.uint8))

    @property
    def file(self) -> bytes:
        out = io.BytesIO()
        self.decoded.save(out, format="PNG")
        return out.getvalue()


@dataclass(frozen=True)
class Film:
    """Brightening squares as H.264 in Matroska, with `sound` as FLAC."""

    frames: int = 4
    width: int = 512
    height: int = 256
    seed: int = 0
    sound: Sound | None = None
    fps: int = 2

    @property
    def decoded(self) -> NDArray[np.uint8]:
        """Return [frames, height, width, 3], read back from the file, as H.264 is lossy."""
        with av.open(io.BytesIO(self.file), "r") as container:
            return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]).astype(np.uint8)

    @property
    def file(self) -> bytes:
        return _film_file(self)


@cache
def _film_file(film: Film) -> bytes:
    rng = np.random.default_rng(film.seed)
    base = np.kron(rng.integers(0, 200, (film.height // 16, film.width // 16, 3)), np.ones((16, 16, 1)))
    out = io.BytesIO()
    with av.open(out, "w", format="matroska") as container:
        video = container.add_stream("libx264", rate=film.fps, options={"crf": "18", "threads": "1"})
        video.width, video.height, video.pix_fmt = film.width, film.height, "yuv420p"
        video.time_base = Fraction(1, film.fps)
        audio = container.add_stream("flac", rate=SAMPLE_RATE, layout="mono") if film.sound else None
        for index in range(film.frames):
            picture = np.clip(base + 6 * index, 0, 255).astype(np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(video.encode())
        if audio is not None and film.sound is not None:
            frame = av.AudioFrame.from_ndarray(film.sound.pcm[None], format="s16", layout="mono")
            frame.sample_rate = SAMPLE_RATE
            container.mux(audio.encode(frame))
            container.mux([packet for packet in audio.encode() if packet.size])  # FLAC's last packet is empty
    return out.getvalue()


Medium = Sound | Picture | Film
