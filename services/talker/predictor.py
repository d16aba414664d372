"""The code predictor: a frame's residual codes from the talker's hidden state and code 0, for a whole batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.layers.attention import Rotary, attention_mask
from services.talker.layers.block import Block
from services.talker.layers.mlp import GatedMlp
from services.talker.layers.norm import RmsNorm
from services.talker.sampling import PREDICTOR_TOP_K, PREDICTOR_TOP_P, TIES, draw


class CodePredictor:
    """Runs codebooks − 1 short steps for each frame. Every frame starts with an empty KV cache."""

    def __init__(self, talker: Any, streams: int, *, fused: bool = False) -> None:
        """streams: the largest batch; fused: compile, see FusedCall."""
        predictor = talker.code_predictor
        self.vocabulary: int = predictor.config.vocab_size
        self._last_rank = min(PREDICTOR_TOP_K, self.vocabulary) - 1
        self._width = min(PREDICTOR_TOP_K + TIES, self.vocabulary)
        self._first_embedding: Tensor = talker.model.codec_embedding.weight
        self._embeddings: list[Tensor] = [table.weight for table in predictor.model.codec_embedding]
        self._heads: list[Tensor] = [head.weight for head in predictor.lm_head]
        self._layers = [Block(layer, GatedMlp) for layer in predictor.model.layers]
        self._norm = RmsNorm(predictor.model.norm)
        attention, weight = self._layers[0].attention, self._heads[0]
        length = len(self._heads) + 1
        # [layers, streams, tokens, keys and values, kv heads, head size]
        self.kv_cache = torch.zeros(
            (len(self._layers), streams, length, 2, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        indices = torch.arange(length, device=weight.device)
        cos, sin = Rotary(predictor.model.rotary_emb)(indices, weight.dtype)
        mask = attention_mask(indices <= indices[:, None], weight.dtype)[None]
        # Tokens 0 and 1 together, then one token a step.
        self._steps = [
            _Step(indices[at], cos[at], sin[at], mask[:, at])
            for at in [slice(0, 2), *(slice(index, index + 1) for index in range(2, length))]
        ]
        self._layer, self._draw = FusedCall(_layer, enabled=fused), FusedCall(_draw, enabled=fused)

    @property
    def residuals(self) -> int:
        return len(self._heads)

    @torch.inference_mode()
    def predict(self, hidden: Tensor, first_codes: Tensor, noises: Sequence[Tensor]) -> Tensor:
        """hidden [batch, hidden size] after the talker's final norm, first_codes int64 [batch] → codes int64
        [batch, codebooks], first_codes included.

        noises: one for each residual, as `draw` takes it.
        """
        codes = [first_codes]
        embeds = torch.stack((hidden, F.embedding(first_codes, self._first_embedding)), dim=1)
        kv_cache = self.kv_cache[:, : len(hidden)]
        kv_cache.zero_()  # masked tokens have a share of 0, but 0 times another frame's infinity is no 0
        layer_caches = kv_cache.unbind()
        for step, part, head, table in zip(self._steps, noises, self._heads, self._embeddings, strict=True):
            for layer, layer_cache in zip(self._layers, layer_caches, strict=True):
                embeds = self._layer(layer, embeds, layer_cache, step=step)
            code, embeds = self._draw(
                self._norm, embeds, part, head=head, embedding=table, last_rank=self._last_rank, width=self._width
            )
            codes.append(code)
        return torch.stack(codes, dim=1)


@dataclass(frozen=True)
class _Step:
    """The n tokens that a step adds: their indices in the KV cache int64 [n], rotary tables [n, 1, head size], and mask
    [1, n, tokens of the cache]."""

    indices: Tensor
    cos: Tensor
    sin: Tensor
    mask: Tensor


def _layer(layer: Block, hidden: Tensor, kv_cache: Tensor, *, step: _Step) -> Tensor:
    """hidden [batch, n, hidden size] → the same shape; kv_cache [batch, tokens, 2, kv heads, head size]."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (step.cos, step.sin))
    kv_cache.index_copy_(1, step.indices, new)
    hidden = hidden + layer.attention.output(layer.attention.attend(queries, kv_cache, step.mask))
    return hidden + layer.mlp(hidden, layer.mlp_norm)


def _draw(
    norm: RmsNorm,
    hidden: Tensor,
    noise: Tensor,
    *,
    head: Tensor,
    embedding: Tensor,
    last_rank: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Return the step's codes int64 [batch], and the next step's input [batch, 1, hidden size]."""
    scores = norm.linear(hidden[:, -1], head).float()
    codes = draw(scores, noise, last_rank, 1 - PREDICTOR_TOP_P, width=width)
    return codes, F.embedding(codes, embedding)[:, None]
