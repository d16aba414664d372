"""Films by a seed: a shape that moves over its ground. Two frames a second, in the size in which serving shows them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from training.mind.arrays import Pixels
from training.mind.pictures import CELL, Layout, draw, place
from training.world.facts import Group, Scene

Random = np.random.Generator

SIZES = ((8, 16), (9, 15), (10, 13), (11, 12), (12, 11), (12, 12), (13, 10), (15, 9))
"""Heights and widths in tokens: at least 128 a frame, as serving makes them."""


def lay_out(scene: Scene, height: int, width: int, rng: Random) -> Layout:
    """Place a scene's groups. The ground grows by a half if they do not fit."""
    named = [(group.colour, group.shape) for group in scene.groups for _ in range(group.count)]
    while True:
        layout = place(named, height, width, rng)
        if len(layout.things) == len(named):
            return layout
        height, width = (-(-side * 3 // 2 // CELL) * CELL for side in (height, width))


def render_film(scene: Scene, rng: Random, frames: int | None = None) -> Pixels:
    """Return uint8 [frames, height, width, 3], an even number of frames: the first group's shape moves as it says."""
    count = frames or int(rng.choice([4, 4, 6]))
    rows, columns = SIZES[int(rng.integers(len(SIZES)))]
    group: Group = scene.groups[0]
    layout = lay_out(Scene((group,)), rows * CELL, columns * CELL, rng)
    thing = layout.things[0]
    sideways = scene.direction in ("left", "right")
    span = float(rng.uniform(0.45, 0.75))
    first = float(rng.uniform(0.1, 0.9 - span))
    path = first + span * np.linspace(0, 1, count)
    if scene.direction in ("left", "up"):
        path = path[::-1]
    at = [{"x": float(place)} if sideways else {"y": float(place)} for place in path]
    return np.stack([draw(replace(layout, things=(replace(thing, **where),))) for where in at])
