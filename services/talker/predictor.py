"""The code predictor: a frame's residual codes from the talker's hidden state and code 0, for all streams of a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.layers.attention import Rotary, visible
from services.talker.layers.block import Block
from services.talker.layers.mlp import GatedMlp
from services.talker.layers.norm import RmsNorm
from services.talker.sampling import PREDICTOR_TOP_K, PREDICTOR_TOP_P, draw


class CodePredictor:
    """Runs codebooks − 1 short steps a frame, over one cache that every frame begins anew."""

    def __init__(self, talker: Any, streams: int, *, fused: bool = False) -> None:
        """streams: the largest batch; fused: compiled, see FusedCall."""
        predictor = talker.code_predictor
        self.vocabulary: int = predictor.config.vocab_size
        # The most that a draw can fall on.
        self.candidates = min(PREDICTOR_TOP_K, self.vocabulary)
        self._first_embedding: Tensor = talker.model.codec_embedding.weight
        self._embeddings: list[Tensor] = [table.weight for table in predictor.model.codec_embedding]
        self._heads: list[Tensor] = [head.weight for head in predictor.lm_head]
        self._layers = [Block(layer, GatedMlp) for layer in predictor.model.layers]
        self._norm = RmsNorm(predictor.model.norm)
        attention, weight = self._layers[0].attention, self._heads[0]
        rows = len(self._heads) + 1
        # [layers, streams, rows, keys and values, kv heads, head size]
        self.kept = torch.zeros(
            (len(self._layers), streams, rows, 2, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        indices = torch.arange(rows, device=weight.device)
        cos, sin = Rotary(predictor.model.rotary_emb)(indices, weight.dtype)
        sees = visible(indices <= indices[:, None], weight.dtype)[None]
        # Rows 0 and 1 begin, then it is one row a step.
        self._steps = [
            _Step(indices[at], cos[at], sin[at], sees[:, at])
            for at in [slice(0, 2), *(slice(row, row + 1) for row in range(2, rows))]
        ]
        self._layer, self._draw = FusedCall(_layer, enabled=fused), FusedCall(_draw, enabled=fused)

    @property
    def residuals(self) -> int:
        return len(self._heads)

    @torch.inference_mode()
    def predict(self, hidden: Tensor, first_codes: Tensor, excluded: Tensor, noise: Tensor) -> Tensor:
        """hidden [batch, hidden size] after the talker's final norm, first_codes int64 [batch] → codes int64
        [batch, codebooks], first_codes included.

        excluded bool [batch, self.candidates], as `draw` takes it; noise [batch, residuals * vocabulary].
        """
        codes = [first_codes]
        rows = torch.stack((hidden, F.embedding(first_codes, self._first_embedding)), dim=1)
        kept = self.kept[:, : len(hidden)]
        kept.zero_()  # every row is looked at, if with a share of 0: which makes no 0 of another's infinity
        kept = kept.unbind()
        noises = noise.split(self.vocabulary, dim=1)
        for step, part, head, table in zip(self._steps, noises, self._heads, self._embeddings, strict=True):
            for layer, rows_kept in zip(self._layers, kept, strict=True):
                rows = self._layer(layer, rows, rows_kept, step=step)
            code, rows = self._draw(self._norm, rows, part, excluded, head=head, embedding=table)
            codes.append(code)
        return torch.stack(codes, dim=1)


@dataclass(frozen=True)
class _Step:
    """The rows that a step adds, n of them: their places in the cache int64 [n], rotary tables [n, 1, head size], and
    what each sees [1, n, rows of the cache]."""

    places: Tensor
    cos: Tensor
    sin: Tensor
    sees: Tensor


def _layer(layer: Block, hidden: Tensor, kept: Tensor, *, step: _Step) -> Tensor:
    """hidden [batch, n, hidden size] → the same; kept [batch, rows of the cache, 2, kv heads, head size]."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (step.cos, step.sin))
    kept.index_copy_(1, step.places, new)
    hidden = hidden + layer.attention.output(layer.attention.attend(queries, kept, step.sees))
    return hidden + layer.mlp(hidden, layer.mlp_norm)


def _draw(
    norm: RmsNorm, hidden: Tensor, noise: Tensor, excluded: Tensor, *, head: Tensor, embedding: Tensor
) -> tuple[Tensor, Tensor]:
    """The step's codes int64 [batch], and the next step's rows [batch, 1, hidden size]."""
    codes = draw(norm.linear(hidden[:, -1], head).float(), noise, excluded, 1 - PREDICTOR_TOP_P)
    return codes, F.embedding(codes, embedding)[:, None]
