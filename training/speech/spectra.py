"""Spectra of sound, in torch."""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional
from transformers.audio_utils import mel_filter_bank

from training.config import FRAME_SAMPLES, SAMPLE_RATE

MELS = 80
MEL_HOP = 240
"""10 ms: eight columns a frame."""

MELS_PER_FRAME = FRAME_SAMPLES // MEL_HOP
_MEL_FFT = 1024
_LOSS_FFTS = {256: 32, 512: 48, 1024: 80, 2048: 128}
"""Window length, mel bands."""


def log_mel(sound: Tensor) -> Tensor:
    """Return float32 [batch, MELS, samples / MEL_HOP] of float32 [batch, samples]; each column lies in its 10 ms."""
    side = (_MEL_FFT - MEL_HOP) // 2
    magnitudes = torch.stft(
        functional.pad(sound, (side, side)),
        _MEL_FFT,
        MEL_HOP,
        window=_window(_MEL_FFT),
        center=False,
        return_complex=True,
    ).abs()
    return (_bank(_MEL_FFT, MELS) @ magnitudes).clamp(min=1e-3).log()


def spectral_loss(heard: Tensor, wanted: Tensor) -> Tensor:
    """Return the mean distance of log spectra of [batch, samples]: bands and lines, windows of 11 … 85 ms."""
    loss = heard.new_zeros(())
    for length, mels in _LOSS_FFTS.items():
        both = torch.cat((heard, wanted))
        magnitudes = torch.stft(both, length, length // 4, window=_window(length), return_complex=True).abs()
        bands = (_bank(length, mels) @ magnitudes).clamp(min=1e-3).log()
        lines = magnitudes.clamp(min=1e-2).log()
        for spectrum, weight in ((bands, 1.0), (lines, 0.5)):
            first, second = spectrum.chunk(2)
            loss = loss + weight * functional.l1_loss(first, second)
    return loss


@functools.cache
def _window(length: int) -> Tensor:
    return torch.hann_window(length)


@functools.cache
def _bank(length: int, mels: int) -> Tensor:
    bank = mel_filter_bank(length // 2 + 1, mels, 30.0, 11_500.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(bank.T.astype("float32"))
