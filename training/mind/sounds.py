"""The dozen sounds of the world, made by a seed: each is a recipe with free pitch, pace and length.

All are float32 [samples] at 16 kHz.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from scipy import signal

from training.mind.arrays import RATE, Samples

Wave = npt.NDArray[np.float64]
Random = np.random.Generator


def make_sound(kind: str, rng: Random) -> Samples:
    """Return one sound of 0.7 to 2.5 s, its peak at 0.5. Raise KeyError for an unknown kind."""
    made = KINDS[kind](rng, float(rng.uniform(0.9, 2.2)))
    edge = min(len(made) // 8, RATE // 50)
    made[-edge:] *= np.linspace(1, 0, edge)
    return (made / (np.abs(made).max() + 1e-9) * 0.5).astype(np.float32)


def _times(seconds: float) -> Wave:
    return np.arange(int(seconds * RATE)) / RATE


def _noise(rng: Random, seconds: float, low: float, high: float) -> Wave:
    """Band-limited noise between two frequencies in Hz."""
    bands = signal.butter(2, [low, high], "bandpass", fs=RATE, output="sos")
    return np.asarray(signal.sosfilt(bands, rng.standard_normal(int(seconds * RATE))))


def _sweep(frequency: Wave) -> Wave:
    """A sine of a frequency that changes, in Hz at each sample."""
    return np.sin(2 * np.pi * np.cumsum(frequency) / RATE)


def _repeat(rng: Random, seconds: float, every_s: float, strike: Callable[[], Wave], shake: float = 0.05) -> Wave:
    """Strikes at a steady pace, each a little early or late, at least two of them."""
    strikes = max(2, int(seconds / every_s))
    out = np.zeros(int((strikes * every_s + 0.6) * RATE))
    for index in range(strikes):
        at = int(max(0.0, index + rng.normal(0, shake)) * every_s * RATE)
        one = strike()[: len(out) - at] * rng.uniform(0.7, 1.0)
        out[at : at + len(one)] += one
    return out


def _bell(rng: Random, seconds: float) -> Wave:
    pitch = rng.uniform(400, 1100)
    parts = [(0.5, 3.0), (1.0, 2.0), (1.19, 2.5), (1.5, 3.0), (2.0, 4.0), (2.74, 5.0), (3.0, 6.0), (4.1, 8.0)]

    def strike() -> Wave:
        t = _times(1.6)
        tones = [np.sin(2 * np.pi * pitch * ratio * t) * np.exp(-fade * t) for ratio, fade in parts]
        return np.asarray(np.sum(tones, axis=0))

    return _repeat(rng, seconds, rng.uniform(0.8, 1.3), strike)


def _siren(rng: Random, seconds: float) -> Wave:
    low, high, pace = rng.uniform(450, 650), rng.uniform(1000, 1500), rng.uniform(0.6, 2.0)
    t = _times(seconds + 0.5)
    return _sweep(low + (high - low) * (0.5 + 0.5 * np.sin(2 * np.pi * pace * t + rng.uniform(0, 6))))


def _whistle(rng: Random, seconds: float) -> Wave:
    t = _times(seconds * 0.7)
    pitch, trill = rng.uniform(2000, 3200), rng.uniform(20, 40)
    blown = _sweep(pitch * (1 + 0.03 * np.sin(2 * np.pi * trill * t)))
    return blown * (1 + 0.4 * np.sin(2 * np.pi * trill * t)) + 0.1 * _noise(rng, seconds * 0.7, 2000, 5000)[: len(t)]


def _drum(rng: Random, seconds: float) -> Wave:
    pitch = rng.uniform(70, 130)

    def strike() -> Wave:
        t = _times(0.5)
        return _sweep(pitch * (1 + 1.2 * np.exp(-30 * t))) * np.exp(-9 * t) + 0.15 * rng.standard_normal(
            len(t)
        ) * np.exp(-80 * t)

    return _repeat(rng, seconds, rng.uniform(0.3, 0.5), strike)


def _knocking(rng: Random, seconds: float) -> Wave:
    pitch = rng.uniform(180, 320)

    def strike() -> Wave:
        t = _times(0.15)
        return (np.sin(2 * np.pi * pitch * t) + 0.6 * np.sin(2 * np.pi * 2.3 * pitch * t)) * np.exp(-45 * t)

    return _repeat(rng, min(seconds, 1.4), rng.uniform(0.18, 0.28), strike)


def _rain(rng: Random, seconds: float) -> Wave:
    hiss = _noise(rng, seconds + 0.4, 1500, 7500)
    drops = np.where(rng.random(len(hiss)) < 0.004, rng.exponential(6.0, len(hiss)), 0.0)
    return hiss + np.asarray(signal.lfilter([1], [1, -0.6], drops)) * rng.standard_normal(len(hiss))


def _wind(rng: Random, seconds: float) -> Wave:
    low = rng.uniform(150, 300)
    gusts = _noise(rng, seconds + 0.6, low, low * 2.2)
    t = np.arange(len(gusts)) / RATE
    return gusts * (0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(0.4, 0.9) * t + rng.uniform(0, 6)))


def _engine(rng: Random, seconds: float) -> Wave:
    t = _times(seconds + 0.3)
    turns = rng.uniform(28, 55) * (1 + rng.uniform(-0.2, 0.3) * t / t[-1])
    phase = np.cumsum(turns) / RATE
    buzz = signal.sawtooth(2 * np.pi * phase) + 0.5 * signal.sawtooth(4 * np.pi * phase + 1)
    return np.asarray(buzz) + 0.3 * _noise(rng, seconds + 0.3, 60, 600)[: len(t)]


def _bird(rng: Random, seconds: float) -> Wave:
    base = rng.uniform(2800, 4500)

    def strike() -> Wave:
        length = rng.uniform(0.06, 0.12)
        t = _times(length)
        bend = rng.choice([-1.0, 1.0]) * rng.uniform(800, 1500)
        return _sweep(base + bend * (t / length - 0.5)) * np.sin(np.pi * t / length)

    return _repeat(rng, seconds, rng.uniform(0.13, 0.22), strike, 0.15)


def _phone(rng: Random, seconds: float) -> Wave:
    t = _times(seconds + 0.6)
    low, high = rng.uniform(420, 470), rng.uniform(470, 520)
    burr = np.sin(2 * np.pi * low * t) + np.sin(2 * np.pi * high * t)
    chop = signal.square(2 * np.pi * rng.uniform(16, 22) * t) > 0
    return burr * chop * (np.mod(t, 0.9) < 0.6)


def _clock(rng: Random, seconds: float) -> Wave:
    pitch = rng.uniform(2200, 3200)
    high = [True]

    def strike() -> Wave:
        t = _times(0.05)
        high[0] = not high[0]
        return np.sin(2 * np.pi * (pitch if high[0] else pitch * 0.8) * t) * np.exp(-160 * t)

    return _repeat(rng, max(seconds, 1.4), rng.uniform(0.35, 0.55), strike, 0.0)


def _music(rng: Random, seconds: float) -> Wave:
    def strike() -> Wave:
        period = int(RATE / rng.choice([110.0, 146.8, 196.0, 246.9, 329.6]))
        pluck = np.zeros(int(1.0 * RATE))
        pluck[:period] = rng.uniform(-1, 1, period)
        loop = np.zeros(period + 2)
        loop[0], loop[period], loop[period + 1] = 1.0, -0.498, -0.498
        return np.asarray(signal.lfilter([1.0], loop, pluck))

    return _repeat(rng, seconds, rng.uniform(0.3, 0.5), strike)


KINDS: dict[str, Callable[[Random, float], Wave]] = {
    "bell": _bell,
    "drum": _drum,
    "whistle": _whistle,
    "siren": _siren,
    "clock": _clock,
    "bird": _bird,
    "engine": _engine,
    "phone": _phone,
    "knocking": _knocking,
    "rain": _rain,
    "wind": _wind,
    "music": _music,
}


def make_recording(kinds: Sequence[str], rng: Random) -> Samples:
    """Return the sounds one after the other, with short pauses."""
    parts: list[Samples] = []
    for kind in kinds:
        parts += [
            make_sound(kind, rng) * np.float32(rng.uniform(0.4, 1.0)),
            np.zeros(int(rng.uniform(0.1, 0.5) * RATE), np.float32),
        ]
    return np.concatenate(parts[:-1])
