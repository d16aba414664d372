"""The codec's encoder: sound to 16 codes a frame, 12.5 frames a second. It is needed in training alone.

A log-mel autoencoder with quantised latents, in the manner of Mimi. The first code comes of a quantiser of its own that
is taught by phonemes, so that it tells what is said and little of who says it; the other 15 are residual and tell the
rest. Codebooks follow their members by moving averages; quantiser dropout orders the residual codes by weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.config import CODEBOOK, CODEBOOKS
from training.hibari_voice import PHONEMES
from training.speech.corpus import LABELS_PER_FRAME
from training.speech.spectra import MELS

WIDTH = 192
LATENT = 64
_DECAY = 0.97
_REVIVE_BELOW = 0.02
"""A code that so few latents of a batch chose, on average, takes the place of one of them."""


class Quantiser(nn.Module):
    """One codebook."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(CODEBOOK, LATENT))
        self.register_buffer("sums", torch.zeros(CODEBOOK, LATENT))
        self.register_buffer("counts", torch.zeros(CODEBOOK))
        self.codes: Tensor
        self.sums: Tensor
        self.counts: Tensor

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Return the nearest codes of float32 [count, LATENT]: their vectors, and int64 [count]."""
        if self.training and not bool(self.counts.any()):
            self._replace(torch.arange(CODEBOOK), latents)
        distances = self.codes.square().sum(1) - 2 * latents.detach() @ self.codes.T
        ids = distances.argmin(1)
        if self.training:
            self._follow(latents.detach(), ids)
        return self.codes[ids], ids

    @torch.no_grad()
    def _follow(self, latents: Tensor, ids: Tensor) -> None:
        self.counts.mul_(_DECAY).index_add_(0, ids, torch.full((len(ids),), 1 - _DECAY))
        self.sums.mul_(_DECAY).index_add_(0, ids, (1 - _DECAY) * latents)
        self.codes.copy_(self.sums / self.counts.clamp(min=1e-4)[:, None])
        self._replace((self.counts < _REVIVE_BELOW).nonzero()[:, 0], latents)

    @torch.no_grad()
    def _replace(self, ids: Tensor, latents: Tensor) -> None:
        taken = latents.detach()[torch.randint(len(latents), (len(ids),))]
        self.codes[ids] = taken
        self.counts[ids] = 10 * _REVIVE_BELOW
        self.sums[ids] = taken * 10 * _REVIVE_BELOW


class Coded(NamedTuple):
    """codes: int64 [batch, frames, 16]. semantic, acoustic: float32 [batch, frames, LATENT], with gradients.

    commitment: how far latents are from their codes, a scalar.
    """

    codes: Tensor
    semantic: Tensor
    acoustic: Tensor
    commitment: Tensor


class Codec(nn.Module):
    """Mel spectra, normalised, to codes and back. Kernels are short: a frame's codes tell little of its neighbours."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(MELS, 1))
        self.register_buffer("std", torch.ones(MELS, 1))
        self.mean: Tensor
        self.std: Tensor
        self.encoder = nn.Sequential(
            nn.Conv1d(MELS, WIDTH, 3, padding=1),
            _Residual(3),
            nn.Conv1d(WIDTH, WIDTH, 2, 2),
            _Residual(3),
            nn.Conv1d(WIDTH, WIDTH, 2, 2),
            _Residual(1),
            nn.Conv1d(WIDTH, WIDTH, 2, 2),
            _Residual(1),
        )
        self.to_semantic = nn.Conv1d(WIDTH, LATENT, 1)
        self.to_acoustic = nn.Conv1d(WIDTH, LATENT, 1)
        self.quantisers = nn.ModuleList([Quantiser() for _ in range(CODEBOOKS)])
        self.phonemes = nn.Linear(LATENT, LABELS_PER_FRAME * PHONEMES)
        self.decoder = nn.Sequential(
            nn.Conv1d(2 * LATENT, WIDTH, 3, padding=1),
            _Residual(3),
            nn.ConvTranspose1d(WIDTH, WIDTH, 4, 2, 1),
            _Residual(3),
            nn.ConvTranspose1d(WIDTH, WIDTH, 4, 2, 1),
            _Residual(3),
            nn.ConvTranspose1d(WIDTH, WIDTH, 4, 2, 1),
            _Residual(3),
            nn.Conv1d(WIDTH, MELS, 3, padding=1),
        )

    def normalise(self, mel: Tensor) -> Tensor:
        return (mel - self.mean) / self.std

    def encode(self, mel: Tensor, *, residual_codes: int = CODEBOOKS - 1) -> Coded:
        """Encode normalised spectra, float32 [batch, MELS, frames · 8].

        residual_codes: so many of the 15 are summed into `acoustic`.
        """
        hidden = self.encoder(mel)
        latents = [layer(hidden).transpose(1, 2) for layer in (self.to_semantic, self.to_acoustic)]
        shape = latents[0].shape
        vectors, ids = self.quantisers[0](latents[0].reshape(-1, LATENT))
        codes = [ids]
        commitment = functional.mse_loss(latents[0].reshape(-1, LATENT), vectors)
        semantic = latents[0] + (vectors.view(shape) - latents[0]).detach()
        rest = latents[1].reshape(-1, LATENT)
        total = torch.zeros_like(rest)
        for index, quantiser in enumerate(self.quantisers[1:]):
            vectors, ids = quantiser(rest - total)
            codes.append(ids)
            commitment = commitment + functional.mse_loss(rest - total, vectors) / (CODEBOOKS - 1)
            total = total + vectors
            if index + 1 == residual_codes:
                kept = total
        acoustic = latents[1] + (kept.view(shape) - latents[1]).detach()  # pyright: ignore[reportPossiblyUnbound]
        return Coded(torch.stack(codes, 1).view(*shape[:2], CODEBOOKS), semantic, acoustic, commitment)

    def decode(self, semantic: Tensor, acoustic: Tensor) -> Tensor:
        """Return normalised spectra. They teach the semantic code nothing: phonemes alone do."""
        return self.decoder(torch.cat((semantic.detach(), acoustic), -1).transpose(1, 2))

    def code_vectors(self) -> Tensor:
        """Return all codebooks, float32 [16, CODEBOOK, LATENT]."""
        return torch.stack([quantiser.codes for quantiser in self.quantisers])


class _Residual(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, WIDTH)
        self.wide = nn.Conv1d(WIDTH, WIDTH, kernel, padding=kernel // 2)
        self.point = nn.Conv1d(WIDTH, WIDTH, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.point(functional.gelu(self.wide(self.norm(hidden))))
