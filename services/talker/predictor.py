"""The code predictor: a frame's residual codes from the talker's hidden row and code 0, for all streams of a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.layers.attention import Rotary
from services.talker.layers.block import Block
from services.talker.layers.mlp import GatedMlp
from services.talker.layers.norm import RmsNorm
from services.talker.sampling import PREDICTOR_TOP_K, PREDICTOR_TOP_P, draw


class CodePredictor:
    """Runs codebooks − 1 short steps a frame, over one cache that every frame begins anew."""

    def __init__(self, talker: Any, streams: int) -> None:
        """streams: the largest batch."""
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
        # Keys and values [layers, 2, streams, rows, kv heads, head size].
        self.kept = torch.zeros(
            (len(self._layers), 2, streams, rows, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        cos, sin = Rotary(predictor.model.rotary_emb)(torch.arange(rows, device=weight.device), weight.dtype)
        # The tables of each step: rows 0 and 1 begin, then one row a step.
        self._tables = [(cos[:2], sin[:2]), *((cos[row : row + 1], sin[row : row + 1]) for row in range(2, rows))]
        self._sees = torch.ones(1, 2, 2, dtype=torch.bool, device=weight.device).tril()

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
        for step, part in enumerate(noise.split(self.vocabulary, dim=1)):
            scores = F.linear(self._forward(rows, step), self._heads[step]).float()
            codes.append(draw(scores, part, excluded, 1 - PREDICTOR_TOP_P))
            rows = F.embedding(codes[-1], self._embeddings[step])[:, None]
        return torch.stack(codes, dim=1)

    def _forward(self, hidden: Tensor, step: int) -> Tensor:
        """The step's rows [batch, n, hidden size] → its last row after the final norm [batch, hidden size]."""
        mask = self._sees if step == 0 else None
        batch, rows = len(hidden), 2 if step == 0 else 1
        for layer, kept in zip(self._layers, self.kept[:, :, :batch, : step + 2].unbind(), strict=True):
            queries, new_keys, new_values = layer.attention.project(layer.attention_norm(hidden), self._tables[step])
            keys, values = kept.unbind()
            keys[:, -rows:].copy_(new_keys)
            values[:, -rows:].copy_(new_values)
            hidden = hidden + layer.attention.attend(queries, keys, values, mask)
            hidden = hidden + layer.mlp(layer.mlp_norm(hidden))
        return self._norm(hidden[:, -1])
