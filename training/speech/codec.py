"""The codec's encoder: sound to 16 codes a frame, 12.5 frames a second. It is needed in training alone.

It has no layers: all of it is fitted in closed form or by k-means, in seconds. The first code is semantic: it comes of
the phonemes that the voice's network says are heard, so it is the same in all voices. Phonemes
are as near to each other as they sound. The other 15 quantise what the frame's log-mel spectrum has beyond the mean of
its first code, each what the one before left (RVQ), so that they are ordered by weight.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from services.local.checkpoint.architecture import CODEBOOKS
from training.config import CODEBOOK
from training.files import write_atomically
from training.hibari_voice import PHONEMES
from training.speech.corpus import LABELS_PER_FRAME, Utterance
from training.speech.spectra import MELS, MELS_PER_FRAME, log_mel

LATENT = 64
"""Principal components of a frame's spectrum."""

PHONEME_LATENT = 12
_KMEANS_ROUNDS = 15


@dataclass(frozen=True)
class Codec:
    """All float32. mean, basis: of spectra, [MELS · 8] and [MELS · 8, LATENT]. phonemes: [PHONEMES, PHONEME_LATENT].

    semantic: centres of code 0, [CODEBOOK, 4 · PHONEME_LATENT]; its spectra: [CODEBOOK, LATENT]. residual: the other 15
    codebooks, [15, CODEBOOK, LATENT].
    """

    mean: Tensor
    basis: Tensor
    phonemes: Tensor
    semantic: Tensor
    semantic_spectra: Tensor
    residual: Tensor

    def encode(self, utterance: Utterance) -> Tensor:
        """Return codes, int64 [frames, 16]."""
        first = _nearest(self._said(utterance), self.semantic)
        rest = (patches(utterance) - self.mean) @ self.basis - self.semantic_spectra[first]
        codes = [first]
        for codebook in self.residual:
            codes.append(_nearest(rest, codebook))
            rest = rest - codebook[codes[-1]]
        return torch.stack(codes, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """Return log-mel spectra, float32 [frames, MELS · 8], of int64 [frames, 16]."""
        tables = self.code_vectors()
        latents = torch.stack([tables[k][codes[:, k]] for k in range(CODEBOOKS)]).sum(0)
        return latents @ self.basis.T + self.mean

    def code_vectors(self) -> Tensor:
        """Return what each code adds to the spectrum, float32 [16, CODEBOOK, LATENT]."""
        return torch.cat((self.semantic_spectra[None], self.residual))

    def _said(self, utterance: Utterance) -> Tensor:
        return _phoneme_vectors(self.phonemes, utterance)

    def save(self, file: Path) -> None:
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        write_atomically(file, lambda path: torch.save(state, path))

    @classmethod
    def load(cls, file: Path) -> Codec:
        """Raise FileNotFoundError where none has been fitted."""
        return cls(**torch.load(file, weights_only=True))


def patches(utterance: Utterance) -> Tensor:
    """Return each frame's log-mel spectrum, eight columns of 10 ms: float32 [frames, MELS · 8]."""
    mel = log_mel(torch.from_numpy(utterance.sound).float()[None] / 32767)[0]
    return mel.view(MELS, -1, MELS_PER_FRAME).permute(1, 0, 2).flatten(1)


def fit(said: list[Utterance]) -> Codec:
    """Fit a codec to utterances; the same for the same."""
    generator = torch.Generator().manual_seed(0)
    spectra = torch.cat([patches(one) for one in said])
    mean = spectra.mean(0)
    basis = _principal(spectra - mean, LATENT)
    latents = (spectra - mean) @ basis
    phonemes = _phoneme_spectra(spectra, torch.cat([torch.from_numpy(one.phonemes) for one in said]).long())
    heard = torch.cat([_phoneme_vectors(phonemes, one) for one in said])
    # Many frames are said alike: centres are sought among the different ones, weighted by the root of their number.
    different, counts = heard.unique(dim=0, return_counts=True)
    semantic = _kmeans(different, generator, weights=counts.sqrt())
    first = _nearest(heard, semantic)
    counts = torch.bincount(first, minlength=CODEBOOK).clamp(min=1)
    semantic_spectra = torch.zeros(CODEBOOK, LATENT).index_add_(0, first, latents) / counts[:, None]
    rest, residual = latents - semantic_spectra[first], list[Tensor]()
    for _ in range(CODEBOOKS - 1):
        residual.append(_kmeans(rest, generator))
        rest = rest - residual[-1][_nearest(rest, residual[-1])]
    return Codec(mean, basis, phonemes, semantic, semantic_spectra, torch.stack(residual))


def _principal(centred: Tensor, count: int) -> Tensor:
    """Return the first principal directions of [rows, columns], as columns: [columns, count]."""
    values = torch.linalg.eigh(centred.T @ centred / len(centred))
    return values.eigenvectors[:, -count:].flip(1).contiguous()


def _phoneme_spectra(spectra: Tensor, labels: Tensor) -> Tensor:
    """Return a place for each phoneme by its mean spectrum: phonemes that sound alike lie near each other.

    labels: int64 [frames, LABELS_PER_FRAME]; each label spans two columns of the frame's spectrum.
    """
    columns = spectra.view(-1, MELS, LABELS_PER_FRAME, MELS_PER_FRAME // LABELS_PER_FRAME).mean(3)
    columns = columns.permute(0, 2, 1).reshape(-1, MELS)
    counts = torch.bincount(labels.flatten(), minlength=PHONEMES)
    means = torch.zeros(PHONEMES, MELS).index_add_(0, labels.flatten(), columns) / counts.clamp(min=1)[:, None]
    used = means[counts > 0]
    return torch.where(
        (counts > 0)[:, None], (means - used.mean(0)) @ _principal(used - used.mean(0), PHONEME_LATENT), 0
    )


def _phoneme_vectors(phonemes: Tensor, utterance: Utterance) -> Tensor:
    return phonemes[torch.from_numpy(utterance.phonemes).long()].flatten(1)


def _nearest(vectors: Tensor, codes: Tensor) -> Tensor:
    return (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(1)


def _kmeans(vectors: Tensor, generator: torch.Generator, weights: Tensor | None = None) -> Tensor:
    """Return CODEBOOK centres. One that loses all its vectors takes a random vector's place."""
    weights = torch.ones(len(vectors)) if weights is None else weights
    codes = vectors[torch.randint(len(vectors), (CODEBOOK,), generator=generator)].clone()
    for _ in range(_KMEANS_ROUNDS):
        ids = _nearest(vectors, codes)
        sums = torch.zeros_like(codes).index_add_(0, ids, weights[:, None] * vectors)
        counts = torch.zeros(CODEBOOK).index_add_(0, ids, weights)
        codes = sums / counts.clamp(min=1e-6)[:, None]
        empty = (counts == 0).nonzero()[:, 0]
        codes[empty] = vectors[torch.randint(len(vectors), (len(empty),), generator=generator)]
    return codes
