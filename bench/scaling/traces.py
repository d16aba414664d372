"""Loads to replay: arrival times of requests and their hold times, drawn once for all controllers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
HOUR_S = 3600.0
DAY_S = 24 * HOUR_S


@dataclass(frozen=True)
class Trace:
    name: str
    about: str
    length_s: float
    # Arrivals in ascending order, and the time that each holds its slot, in seconds.
    arrivals_s: Floats
    holds_s: Floats
    # Slots that the load keeps busy, at the peak and on average.
    peak_slots: float
    mean_slots: float


@dataclass(frozen=True)
class Shape:
    """Requests a second over time, as a fraction of the peak."""

    name: str
    about: str
    length_s: float
    rate: Callable[[float], float]


def steady(_: float) -> float:
    return 1.0


def daily(at_s: float) -> float:
    """A tenth at night, up to the full load in the afternoon."""
    return 0.55 - 0.45 * math.cos(2 * math.pi * (at_s - 4 * HOUR_S) / DAY_S)


def spike(at_s: float) -> float:
    """A tenth, and then suddenly the full load for ten minutes."""
    return 1.0 if 1.5 * HOUR_S <= at_s % (4 * HOUR_S) < 1.5 * HOUR_S + 600 else 0.1


def from_zero(at_s: float) -> float:
    """The full load for twenty minutes every two hours, and otherwise nothing."""
    return 1.0 if at_s % (2 * HOUR_S) >= 2 * HOUR_S - 1200 else 0.0


def square_wave(at_s: float) -> float:
    """15 minutes without load, then 15 minutes of full load."""
    return 1.0 if at_s % (HOUR_S / 2) >= HOUR_S / 4 else 0.0


def rise(at_s: float) -> float:
    """From 30 % to 100 % within ten minutes."""
    return min(1.0, 0.3 + 0.7 * at_s / 600)


FLEET = Shape("fleet", "30 % to 100 % within 10 minutes, 20 minutes in all", 1200, rise)
SHAPES = (
    Shape("steady", "one rate", 6 * HOUR_S, steady),
    Shape("daily", "24 h, 10 % at night to 100 % in the afternoon", DAY_S, daily),
    Shape("spike", "10 %, for ten minutes 100 %, 8 h", 8 * HOUR_S, spike),
    Shape("square wave", "15 minutes of nothing, 15 minutes of 100 %, 4 h", 4 * HOUR_S, square_wave),
    Shape("from zero", "idle but for 20 minutes every 2 h, 12 h", 12 * HOUR_S, from_zero),
)


def draw(shape: Shape, *, peak_slots: float, hold_s: float, hold_cv: float, seed: int) -> Trace:
    """Draw a Poisson process by thinning. Holds are log-normal, with mean `hold_s` and variation `hold_cv`."""
    random = np.random.default_rng(seed)
    per_s = peak_slots / hold_s
    count = random.poisson(per_s * shape.length_s)
    all_s = np.sort(random.uniform(0, shape.length_s, count))
    arrivals_s = all_s[random.uniform(size=count) < np.array([shape.rate(float(at_s)) for at_s in all_s])]
    sigma = math.sqrt(math.log1p(hold_cv**2))
    holds = random.lognormal(math.log(hold_s) - sigma**2 / 2, sigma, len(arrivals_s))
    mean = len(arrivals_s) / shape.length_s * hold_s
    return Trace(shape.name, shape.about, shape.length_s, arrivals_s, holds, peak_slots, mean)
