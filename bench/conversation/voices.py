"""What is said in conversations: recorded prompts, cut where the voice begins and ends. 24 kHz, mono, 16 bits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.gateway.realtime.sounds import cough, ms_of, prompts_folder, said

_WINDOW = SAMPLE_RATE // 100
_FLOOR = 0.03
"""Of the loudest 10 ms: what is quieter is a pause."""
_SENTENCE_MS, _LONGEST_PAUSE_MS = (1200, 4000), 300
_WORDS = (*(f"digits/{n}" for n in range(10)), "hello", "goodbye", "vm-no", "number", "hours")
_FADE_MS = 40
_G722_BYTES_A_MS = 8


def _voiced(pcm: bytes) -> np.ndarray:
    """Return the places of the 10 ms windows with voice."""
    samples = np.frombuffer(pcm, "<i2").astype(np.float64)
    energy = np.sqrt(np.mean(samples[: len(samples) // _WINDOW * _WINDOW].reshape(-1, _WINDOW) ** 2, axis=1))
    return np.flatnonzero(energy > _FLOOR * energy.max())


@cache
def voice(name: str) -> bytes:
    """Return a prompt from the first to the last moment of voice."""
    pcm = said(name)
    places = _voiced(pcm)
    return pcm[2 * _WINDOW * int(places[0]) : 2 * _WINDOW * (int(places[-1]) + 1)]


@cache
def sentences() -> Sequence[str]:
    """Return the names of prompts that are one sentence, without a pause that may end a turn."""
    found: list[str] = []
    shortest, longest = _SENTENCE_MS
    for path in sorted(Path(prompts_folder()).glob("*.g722")):
        if path.stem.startswith(("tt-", "beep")) or not shortest <= path.stat().st_size / _G722_BYTES_A_MS <= longest:
            continue
        pauses_ms = 10 * (np.diff(_voiced(voice(path.stem))) - 1)
        if ms_of(voice(path.stem)) >= shortest and pauses_ms.max(initial=0) <= _LONGEST_PAUSE_MS:
            found.append(path.stem)
    return found


def words() -> Sequence[str]:
    """Return the names of prompts that are one word of half a second or so."""
    return _WORDS


def back_channels(longest_ms: int) -> Sequence[bytes]:
    """Return short sounds of a listener who wants no turn: beginnings of words, as long as given, and coughs."""
    fade = np.linspace(1.0, 0.0, _FADE_MS * SAMPLE_RATE // 1000)
    made: list[bytes] = []
    for name in _WORDS:
        samples = np.frombuffer(voice(name), "<i2")[: longest_ms * SAMPLE_RATE // 1000].astype(np.float64)
        samples[-len(fade) :] *= fade
        made.append(samples.astype("<i2").tobytes())
    return [*made, *(cough(seed) for seed in range(3))]
