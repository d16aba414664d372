"""Carries fractional multimodal RoPE positions through vLLM 0.32.0, which supports only whole ones.

vLLM also computes other positions than transformers where a video with sound has little of it. It fails where a
separate audio precedes such a video, and the engine dies where lengths do not add up. services.common.mrope computes
the positions instead, from the checked places of the embeddings.

vLLM stores positions as int64 and adds whole numbers to them. `encode` puts the whole part into the low 32 bits and the
fraction into the high ones, which such sums do not change. vLLM's rotary embedding looks positions up in a table of
cosines and sines; `StepRotary` refills that table in each step, with one entry for each token and axis.
"""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import torch
from vllm.model_executor.layers.rotary_embedding import MRotaryEmbedding

from services.common.mrope import Floats
from services.thinker.engine.patching import replace

_WHOLE_BITS = 32
_FRACTION_STEPS = 1 << 31
"""A float32 of 1 or more is a multiple of 2**-23, so this loses nothing."""


def encode(positions: Floats) -> torch.Tensor:
    """Return float32 positions as vLLM carries them: int64 of the same shape."""
    exact = positions.astype(np.float64)
    whole = np.floor(exact)
    fraction = ((exact - whole) * _FRACTION_STEPS).astype(np.int64)
    return torch.from_numpy((fraction << _WHOLE_BITS) + whole.astype(np.int64))


def encode_delta(delta: float) -> Any:
    """Return what vLLM adds to a generated token's index. Its whole part may be negative.

    It is an np.int64: vLLM's indices are np.int32, and adding a Python integer to one gives an int32.
    """
    whole = int(np.floor(delta))
    return np.int64((int((delta - whole) * _FRACTION_STEPS) << _WHOLE_BITS) + whole)


def decode(encoded: torch.Tensor) -> torch.Tensor:
    """Return the float32 positions of `encode`, also after whole numbers were added."""
    fraction = (encoded >> _WHOLE_BITS).double() / _FRACTION_STEPS
    return ((encoded & ((1 << _WHOLE_BITS) - 1)).double() + fraction).float()


class StepRotary(torch.nn.Module):
    """Gives the decoder layers of one process the cosines and sines of a step's positions.

    The layers share one rotary embedding. This class replaces its table, writes it before the layers run, and gives
    the layers indices into it as their positions. Both tensors stay at one address, as CUDA graphs require.
    """

    def __init__(self, layers: Any, max_tokens: int) -> None:
        """Raise RuntimeError where the layers do not share one MRotaryEmbedding."""
        super().__init__()
        rotaries = {id(layer.self_attn.rotary_emb): layer.self_attn.rotary_emb for layer in layers}
        rotary = next(iter(rotaries.values()))
        if len(rotaries) != 1 or not isinstance(rotary, MRotaryEmbedding):
            found = [type(one).__name__ for one in rotaries.values()]
            raise RuntimeError(f"the decoder layers must share one MRotaryEmbedding; they have {found}")
        row = max_tokens + 1  # one more: a step's indices are then never contiguous, like vLLM's own positions
        table = rotary.cos_sin_cache
        self._scale = rotary.mscale
        self._half = rotary.rotary_dim // 2
        private = cast(Any, rotary)
        frequencies = private._compute_inv_freq(rotary.base).to(table.device)
        self.register_buffer("_frequencies", frequencies, persistent=False)
        self.register_buffer("_indices", torch.arange(3 * row, device=table.device).view(3, row), persistent=False)
        replace(
            rotary, "cos_sin_cache", table.new_zeros(3 * row, rotary.rotary_dim), private._match_cos_sin_cache_dtype
        )
        self._rotary = [rotary]  # in a list, so that it is no submodule: its parameters belong to the layers

    def forward(self, encoded: torch.Tensor) -> torch.Tensor:
        """Fill the table for a step's positions, int64 [3, tokens] from `encode`. Return the layers' indices."""
        tokens = encoded.shape[1]
        indices, frequencies = cast(torch.Tensor, self._indices), cast(torch.Tensor, self._frequencies)
        angles = decode(encoded).unsqueeze(-1) * frequencies
        table = self._rotary[0].cos_sin_cache.view(*indices.shape, -1)
        table[:, :tokens, : self._half] = angles.cos() * self._scale
        table[:, :tokens, self._half :] = angles.sin() * self._scale
        return indices[:, :tokens]
