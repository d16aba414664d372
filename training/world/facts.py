"""What there is in the world: sums, groups of shapes, sounds, movements. Sentences and media are made of these."""

from __future__ import annotations

import operator
import random
from dataclasses import dataclass

from training.world.words import COLOURS, DIRECTIONS, OPERATIONS, SHAPES, SOUNDS

MAX_COUNT = 4
"""Most shapes of one kind in a picture."""

_COMPUTE = {"plus": operator.add, "minus": operator.sub, "times": operator.mul}


@dataclass(frozen=True)
class Sum:
    """Two numbers, 0 … 10, and plus, minus or times."""

    left: int
    operation: str
    right: int

    @property
    def result(self) -> int:
        return _COMPUTE[self.operation](self.left, self.right)


@dataclass(frozen=True)
class Group:
    """So many shapes of one kind and colour."""

    count: int
    colour: str
    shape: str


@dataclass(frozen=True)
class Scene:
    """What a picture, a film or a recording shows: groups of shapes, sounds, and where the first group moves.

    A picture has groups alone, a recording sounds alone; a film has one group and a movement, and may have sounds.
    """

    groups: tuple[Group, ...] = ()
    sounds: tuple[str, ...] = ()
    direction: str | None = None


def draw_sum(rng: random.Random) -> Sum:
    return Sum(rng.randint(0, 10), rng.choice(OPERATIONS), rng.randint(0, 10))


def draw_group(rng: random.Random) -> Group:
    return Group(rng.randint(1, MAX_COUNT), rng.choice(COLOURS), rng.choice(tuple(SHAPES)))


def draw_picture(rng: random.Random) -> Scene:
    """Draw one or two groups that differ in colour and in shape, in the order of COLOURS: a picture has no other."""
    first = draw_group(rng)
    if rng.random() < 0.5:
        return Scene((first,))
    colour = rng.choice([other for other in COLOURS if other != first.colour])
    shape = rng.choice([other for other in SHAPES if other != first.shape])
    groups = (first, Group(rng.randint(1, MAX_COUNT), colour, shape))
    return Scene(tuple(sorted(groups, key=lambda group: COLOURS.index(group.colour))))


def draw_recording(rng: random.Random) -> Scene:
    """Draw one sound, or two that follow each other."""
    return Scene(sounds=tuple(rng.sample(tuple(SOUNDS), 1 if rng.random() < 0.6 else 2)))


def draw_film(rng: random.Random, *, has_sound: bool) -> Scene:
    """Draw one shape that moves, with a sound or without."""
    group = Group(1, rng.choice(COLOURS), rng.choice(tuple(SHAPES)))
    sounds = (rng.choice(tuple(SOUNDS)),) if has_sound else ()
    return Scene((group,), sounds, rng.choice(DIRECTIONS))
