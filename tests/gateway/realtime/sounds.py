"""Sounds for a detector of speech: recorded prompts, silence and noise. All are 24 kHz, mono, 16 bits."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from services.gateway.realtime.conversation import SAMPLE_RATE
from tests.deploy.files import ROOT

_PEAK = 8000


@cache
def prompts_folder() -> str:
    """Return where recorded prompts are; "" = they can't be had."""
    found = subprocess.run([str(ROOT / "tests/tools/prompts.sh")], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    return found.stdout.strip()


@cache
def said(name: str) -> bytes:
    """Return a recorded prompt, as it was said. Skip the test where there is none; fail with CI=true."""
    if not prompts_folder():
        pytest.skip("recorded speech cannot be had", allow_module_level=True)
    resampler = av.AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE)
    with av.open(str(Path(prompts_folder()) / f"{name}.g722"), format="g722") as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


def silence(ms: int) -> bytes:
    return bytes(ms * SAMPLE_RATE // 1000 * 2)


def noise(ms: int, level: float = 0.02, seed: int = 1) -> bytes:
    """Return white noise. `level`: its root mean square of the full scale."""
    samples = np.random.default_rng(seed).normal(0, level * 32768, ms * SAMPLE_RATE // 1000)
    return _pcm(samples)


def hum(ms: int) -> bytes:
    """Return the hum of mains in a microphone, with its harmonics."""
    t = np.arange(ms * SAMPLE_RATE // 1000) / SAMPLE_RATE
    return _pcm(np.sum([np.sin(2 * np.pi * 50 * n * t) * 200 / n for n in range(1, 8)], axis=0))


def cough(seed: int = 3) -> bytes:
    """Return a burst of noise with a sharp onset, and its decay: 250 ms."""
    samples = np.random.default_rng(seed).normal(0, _PEAK, SAMPLE_RATE // 4)
    t = np.arange(len(samples)) / SAMPLE_RATE
    return _pcm(samples * np.exp(-t / 0.06))


def ms_of(pcm: bytes) -> int:
    return len(pcm) * 500 // SAMPLE_RATE


def _pcm(samples: np.ndarray) -> bytes:
    return np.clip(samples, -32768, 32767).astype("<i2").tobytes()
