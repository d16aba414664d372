"""Media of the small world: a picture and a film of coloured shapes, and a siren. They are the same at each call."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

RATE = 16_000
"""Samples a second of all sounds here."""
FILM_S = 3
FILM_FPS = 8

_COLOURS = {"red": (215, 30, 30), "green": (30, 160, 50), "blue": (35, 70, 215)}
_GROUND = (250, 250, 250)
_OVERSAMPLING = 2


@dataclass(frozen=True)
class Shape:
    """kind: "circle", "square" or "star". x, y: its middle, radius: all in pixels."""

    colour: str
    kind: str
    x: float
    y: float
    radius: float


def draw(shapes: Sequence[Shape], width: int, height: int) -> Image.Image:
    """Return a picture of `shapes` on pale ground."""
    k = _OVERSAMPLING
    canvas = Image.new("RGB", (width * k, height * k), _GROUND)
    pen = ImageDraw.Draw(canvas)
    for shape in shapes:
        x, y, r = shape.x * k, shape.y * k, shape.radius * k
        colour = _COLOURS[shape.colour]
        match shape.kind:
            case "circle":
                pen.ellipse((x - r, y - r, x + r, y + r), colour)
            case "square":
                pen.rectangle((x - 0.8 * r, y - 0.8 * r, x + 0.8 * r, y + 0.8 * r), colour)
            case _:
                pen.polygon([(x + r * a, y + r * b) for a, b in _star()], colour)
    return canvas.resize((width, height), Image.Resampling.BOX)


def picture_png() -> bytes:
    """Return two red circles and a blue star."""
    shapes = (
        Shape("red", "circle", 80, 80, 44),
        Shape("red", "circle", 230, 190, 40),
        Shape("blue", "star", 240, 70, 50),
    )
    target = io.BytesIO()
    draw(shapes, 320, 256).save(target, "PNG")
    return target.getvalue()


def siren(seconds: float) -> NDArray[np.float32]:
    """Return a siren, float32 [samples] within ±0.5: its pitch goes up and down between 550 and 1250 Hz."""
    times_s = np.arange(int(seconds * RATE)) / RATE
    pitch_hz = 900 + 350 * np.sin(2 * np.pi * times_s)
    return (0.5 * np.sin(2 * np.pi * np.cumsum(pitch_hz) / RATE)).astype(np.float32)


def film_mp4() -> bytes:
    """Return a film of a red circle that moves right, with a siren."""
    width, height = 384, 352
    target = io.BytesIO()
    with av.open(target, "w", format="mp4") as container:
        pictures: Any = container.add_stream("mpeg4", rate=FILM_FPS, options={"qscale": "2"})
        pictures.width, pictures.height, pictures.pix_fmt = width, height, "yuv420p"
        pictures.bit_rate = 2_000_000
        sound: Any = container.add_stream("aac", rate=RATE)
        count = FILM_S * FILM_FPS
        for index in range(count):
            x = width * (0.2 + 0.6 * index / (count - 1))
            image = draw([Shape("red", "circle", x, height / 2, 60)], width, height)
            container.mux(pictures.encode(av.VideoFrame.from_image(image)))
        frame = av.AudioFrame.from_ndarray(siren(FILM_S)[None], format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux([*sound.encode(frame), *pictures.encode(None), *sound.encode(None)])
    return target.getvalue()


def to_wav(samples: NDArray[np.float32], rate: int = RATE) -> bytes:
    """Return float32 [samples] within ±1 as a WAV of 16 bits, mono."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return target.getvalue()


def _star() -> list[tuple[float, float]]:
    """Corners of a star of radius 1, the first one at the top."""
    turns = [index * math.pi / 5 for index in range(10)]
    return [(r * math.sin(turn), -r * math.cos(turn)) for turn, r in zip(turns, (1.0, 0.42) * 5, strict=True)]
