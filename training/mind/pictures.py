"""Pictures drawn by a seed: coloured shapes on plain, shaded, noisy or photographed ground."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from training.mind.arrays import Pixels

CELL = 32
"""Side in pixels of what one token shows: 2 × 2 patches of 16 × 16."""

SMALLEST = 20.0
"""Least radius of a thing, in pixels: a tower so small can't tell smaller circles from squares."""

Random = np.random.Generator

RGB: dict[str, tuple[int, int, int]] = {
    "red": (215, 30, 30),
    "green": (30, 160, 50),
    "blue": (35, 70, 215),
    "yellow": (245, 220, 40),
    "orange": (250, 135, 20),
    "purple": (135, 45, 165),
    "black": (15, 15, 15),
    "white": (248, 248, 248),
}

_STAR = [
    (math.sin(i * math.pi / 5) * (1.0, 0.42)[i % 2], -math.cos(i * math.pi / 5) * (1.0, 0.42)[i % 2]) for i in range(10)
]
_OUTLINES: dict[str, Sequence[tuple[float, float]]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0, -1.0), (0.92, 0.75), (-0.92, 0.75)],
    "star": _STAR,
}
"""Corners of a shape of radius 1; a circle has none."""


@dataclass(frozen=True)
class Thing:
    """One shape. `x`, `y`: its middle as fractions of the picture's sides; `radius` in pixels."""

    colour: str
    shape: str
    x: float
    y: float
    radius: float
    turn: float


@dataclass(frozen=True)
class Layout:
    things: tuple[Thing, ...]
    height: int
    width: int
    ground_seed: int


def place(named: Sequence[tuple[str, str]], height: int, width: int, rng: Random) -> Layout:
    """Find places for (colour, shape) things, apart from each other. Fewer may fit than were asked for: look."""
    things: list[Thing] = []
    side = min(height, width)
    most = min(side * 0.42, math.sqrt(height * width / max(len(named), 1)) * 0.38)
    for colour, shape in named:
        for _ in range(60):
            radius = float(rng.uniform(max(SMALLEST, most * 0.4), max(SMALLEST + 1, most)))
            x, y = (float(rng.uniform(radius, length - radius)) for length in (width, height))
            if all(math.hypot(x - t.x * width, y - t.y * height) > (radius + t.radius) * 1.05 + 4 for t in things):
                turn = float(rng.normal(0, 0.12))
                things.append(Thing(colour, shape, x / width, y / height, radius, turn))
                break
            most = max(SMALLEST + 1, most * 0.97)
    return Layout(tuple(things), height, width, int(rng.integers(2**31)))


def draw(layout: Layout) -> Pixels:
    """Return uint8 [height, width, 3]."""
    rng = np.random.default_rng(layout.ground_seed)
    ground = _ground(layout, rng)
    canvas = Image.fromarray(ground).resize((layout.width * 2, layout.height * 2))
    pen = ImageDraw.Draw(canvas)
    outline = bool(rng.random() < 0.3)
    for thing in layout.things:
        tint = tuple(int(np.clip(level + rng.normal(0, 9), 0, 255)) for level in RGB[thing.colour])
        line = (20, 20, 20) if thing.colour != "black" else (235, 235, 235)
        _draw_thing(pen, thing, layout, tint, line if outline else None)
    drawn = np.asarray(canvas.resize((layout.width, layout.height), Image.Resampling.BOX), np.float32)
    noisy = drawn + rng.standard_normal(drawn.shape, np.float32) * np.float32(rng.choice([0.0, 3.0, 9.0]))
    return np.clip(noisy * rng.uniform(0.85, 1.0), 0, 255).astype(np.uint8)


def _draw_thing(
    pen: ImageDraw.ImageDraw, thing: Thing, layout: Layout, tint: tuple[int, ...], line: tuple[int, int, int] | None
) -> None:
    x, y, r = thing.x * layout.width * 2, thing.y * layout.height * 2, thing.radius * 2
    if thing.shape == "circle":
        pen.ellipse((x - r, y - r, x + r, y + r), fill=tint, outline=line, width=3)
        return
    cos, sin = math.cos(thing.turn), math.sin(thing.turn)
    points = [(x + r * (a * cos - b * sin), y + r * (a * sin + b * cos)) for a, b in _OUTLINES[thing.shape]]
    pen.polygon(points, fill=tint, outline=line, width=3)


def _ground(layout: Layout, rng: Random) -> Pixels:
    height, width = layout.height, layout.width
    kind = rng.random()
    used = [np.array(RGB[thing.colour], float) for thing in layout.things]
    if kind < 0.15 and _photographs():
        photo = _photographs()[int(rng.integers(len(_photographs())))]
        top, left = (
            int(rng.integers(0, max(1, have - want))) for have, want in zip(photo.shape, (height, width), strict=False)
        )
        patch = Image.fromarray(photo[top : top + height, left : left + width]).resize((width, height))
        pale = np.asarray(patch, np.float32) * 0.55 + rng.uniform(40, 115)
        grey = pale.mean(-1, keepdims=True)
        return np.clip(grey + (pale - grey) * 0.5, 0, 255).astype(np.uint8)
    plain = np.full(3, 128.0)
    for _ in range(40):
        plain = rng.uniform(0, 255) * np.ones(3) + rng.normal(0, 22, 3)
        if rng.random() < 0.45:
            plain = np.full(3, rng.choice([255.0, 250.0, 235.0, 0.0]))
        if all(np.abs(plain - colour).max() > 70 for colour in used):
            break
    field = np.broadcast_to(plain, (height, width, 3)).astype(np.float32).copy()
    if 0.15 <= kind < 0.4:
        field += (np.linspace(-1, 1, width)[None, :, None] * rng.uniform(-30, 30)).astype(np.float32)
        field += (np.linspace(-1, 1, height)[:, None, None] * rng.uniform(-30, 30)).astype(np.float32)
    elif kind < 0.55:
        coarse = rng.normal(0, 14, (height // 8 + 1, width // 8 + 1, 1)).repeat(8, 0).repeat(8, 1)
        field += coarse[:height, :width].astype(np.float32)
    return np.clip(field, 0, 255).astype(np.uint8)


@cache
def _photographs() -> tuple[Pixels, ...]:
    """The photographs that scikit-image's wheel brings, where it is installed."""
    try:
        from skimage import data
    except ImportError:
        return ()
    return tuple(
        np.asarray(getattr(data, name)(), np.uint8)[..., :3] for name in ("astronaut", "coffee", "chelsea", "rocket")
    )


def moved(layout: Layout, direction: str, rng: Random) -> tuple[Layout, Layout]:
    """Return two layouts half a second apart: the first one's things, and the same further on in `direction`."""
    sideways = direction in ("left", "right")
    by = float(rng.uniform(0.08, 0.3)) * (-1 if direction in ("left", "up") else 1)

    def shifted(thing: Thing, share: float) -> Thing:
        x = float(np.clip(thing.x + by * share * sideways, 0.03, 0.97))
        y = float(np.clip(thing.y + by * share * (not sideways), 0.03, 0.97))
        return replace(thing, x=x, y=y)

    before, after = (replace(layout, things=tuple(shifted(t, share) for t in layout.things)) for share in (-0.5, 0.5))
    return before, after
