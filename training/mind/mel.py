"""Sound to log mel features and the ways in which training distorts it. Features equal the processor's."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import torch
from scipy import signal
from torch import Tensor
from torch.nn import functional
from transformers import WhisperFeatureExtractor

from training.mind.arrays import RATE, Samples

HOP = 160
_UNIT_DB = 40.0
"""What 1 means in log mel features: they are log10 of power by 4."""

Random = np.random.Generator


@cache
def _filters() -> Tensor:
    extractor = WhisperFeatureExtractor(feature_size=128, sampling_rate=RATE, hop_length=HOP, n_fft=400)
    return torch.from_numpy(np.asarray(extractor.mel_filters, np.float32)).T


@cache
def _window() -> Tensor:
    return torch.hann_window(400)


def log_mel(sound: Samples) -> Tensor:
    """float32 [samples] at 16 kHz → float32 [128, frames], one frame for each whole 10 ms."""
    spectrum = torch.stft(torch.from_numpy(sound), 400, HOP, window=_window(), return_complex=True)
    power = spectrum[:, :-1].abs() ** 2
    log = (_filters() @ power).clamp(min=1e-10).log10()
    return (torch.maximum(log, log.max() - 8.0) + 4.0) / 4.0


@cache
def _middles() -> np.ndarray[Any, np.dtype[np.float64]]:
    """The frequency of each bin's peak, in Hz."""
    frequencies = np.linspace(0, RATE / 2, _filters().shape[1])
    return frequencies[_filters().numpy().argmax(1)] + np.arange(128) * 1e-6


def warped(mel: Tensor, factor: float) -> Tensor:
    """Move features to where another throat would have them: frequencies times `factor`, up to a bend near 4.8 kHz.

    Vocal tract length perturbation (Jaitly and Hinton, 2013): it makes other speakers out of those that there are.
    """
    top, bend = RATE / 2, 4800.0 * min(factor, 1.0)
    middles = _middles()
    low = middles / factor
    high = top - (top - bend / factor) / (top - bend) * (top - middles)
    at = np.interp(np.where(middles < bend, low, high), middles, np.arange(len(middles)))
    below = np.minimum(at.astype(int), len(middles) - 2)
    share = torch.from_numpy((at - below).astype(np.float32))[:, None]
    return mel[below] * (1 - share) + mel[below + 1] * share


def paced(mel: Tensor, factor: float) -> Tensor:
    """Make features last `factor` times as long, at the same pitch. People speak more slowly than programs do."""
    frames = max(1, round(mel.shape[1] * factor))
    return functional.interpolate(mel[None], size=frames, mode="linear", align_corners=False)[0]


def uneven(mel: Tensor, rng: Random) -> Tensor:
    """Stretch some moments and press others, each for 0.1 to 0.3 s: a person dwells on a vowel and hurries another."""
    lengths = rng.integers(10, 30, mel.shape[1] // 10 + 2)
    knots = np.concatenate([[0], np.cumsum(lengths)])
    moved = np.concatenate([[0], np.cumsum(lengths * np.exp(rng.normal(0, 0.35, len(lengths))))])
    frames = np.arange(max(1, int(np.interp(mel.shape[1], knots, moved))))
    at = np.minimum(np.interp(frames, moved, knots), mel.shape[1] - 1)
    before = at.astype(int)
    after = np.minimum(before + 1, mel.shape[1] - 1)
    share = torch.from_numpy((at - before).astype(np.float32))
    return mel[:, before] * (1 - share) + mel[:, after] * share


def tilted(mel: Tensor, rng: Random) -> Tensor:
    """Raise or lower wide bands by up to some 8 dB: another microphone, another mouth."""
    gains_db = np.interp(np.arange(len(mel)), np.linspace(0, len(mel) - 1, 5), rng.normal(0, 4, 5))
    return mel + torch.from_numpy((gains_db / _UNIT_DB).astype(np.float32))[:, None]


def quiet_around(sound: Samples) -> Samples:
    """Return the sound at a peak of 0.5, with 0.2 s of silence before and after."""
    silence = np.zeros(RATE // 5, np.float32)
    return np.concatenate([silence, sound / (np.abs(sound).max() + 1e-6) * 0.5, silence]).astype(np.float32)


def distort(sound: Samples, rng: Random, noise: Samples | None = None) -> Samples:
    """Put a sound somewhere else: another pace, room, microphone, loudness and background. `noise` may be any sound."""
    out = sound / (np.abs(sound).max() + 1e-6)
    if rng.random() < 0.5:
        stretch = rng.uniform(0.88, 1.14)
        out = np.interp(np.arange(0, len(out), stretch), np.arange(len(out)), out).astype(np.float32)
    out = np.concatenate([_silence(rng), out, _silence(rng)])
    if rng.random() < 0.35:
        out = _in_a_room(out, rng)
    if rng.random() < 0.45:
        taps = rng.normal(0, 0.3, 3)
        taps[0] = 1
        out = np.convolve(out, taps)[: len(out)].astype(np.float32)
    if rng.random() < 0.15:
        telephone = signal.butter(
            3, [rng.uniform(150, 350), rng.uniform(3000, 3900)], "bandpass", fs=RATE, output="sos"
        )
        out = np.asarray(signal.sosfilt(telephone, out), np.float32)
    out = out / (np.abs(out).max() + 1e-6) * float(np.exp(rng.uniform(np.log(0.05), np.log(0.95))))
    level = float(np.sqrt(np.mean(out**2))) + 1e-6
    if noise is not None and rng.random() < 0.2:
        beside = np.resize(noise, len(out))
        out = out + beside * (level * 10 ** (-rng.uniform(6, 22) / 20) / (float(np.sqrt(np.mean(beside**2))) + 1e-6))
    hiss = rng.standard_normal(len(out)).astype(np.float32)
    if rng.random() < 0.4:
        hiss = np.asarray(signal.lfilter([0.3], [1, -0.8], hiss), np.float32)
    return (out + hiss * level * 10 ** (-rng.uniform(12, 65) / 20)).astype(np.float32)


def _silence(rng: Random) -> Samples:
    return np.zeros(int(max(0.02, rng.normal(0.2, 0.25)) * RATE), np.float32)


def _in_a_room(sound: Samples, rng: Random) -> Samples:
    decay_s = rng.uniform(0.08, 0.45)
    t = np.arange(int(decay_s * RATE)) / RATE
    tail = rng.standard_normal(len(t)) * np.exp(-6.9 * t / decay_s) * rng.uniform(0.05, 0.25)
    tail[0] = 1.0
    tail[1 : int(rng.uniform(16, 160))] = 0.0
    return np.asarray(signal.fftconvolve(sound, tail)[: len(sound)], np.float32)
