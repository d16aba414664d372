"""The talker's decoder over the paged cache: a prompt's rows in bounded pieces, then one row for each stream a step."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.kv_cache import PAGE_ROWS, KvCache
from services.talker.layers.attention import Rotary, rotation
from services.talker.layers.block import Block
from services.talker.layers.mlp import SparseMlp
from services.talker.layers.norm import RmsNorm


class TalkerModel:
    """Hidden rows of the talker; equal to transformers' forward with a cache, to float rounding."""

    def __init__(self, talker: Any) -> None:
        self._model = talker.model
        self._layers = [Block(layer, SparseMlp) for layer in talker.model.layers]
        self._norm = RmsNorm(talker.model.norm)
        self._rotary = Rotary(talker.model.rotary_emb)

    def new_cache(self, *, pages: int, slots: int, pages_a_slot: int) -> KvCache:
        attention = self._layers[0].attention
        weight = self._model.norm.weight
        return KvCache(
            len(self._layers),
            attention.kv_heads,
            attention.head_size,
            pages=pages,
            slots=slots,
            pages_a_slot=pages_a_slot,
            dtype=weight.dtype,
            device=weight.device,
        )

    @torch.inference_mode()
    def prefill(
        self,
        cache: KvCache,
        slots: Tensor,
        starts: Tensor,
        counts: Tensor,
        rows: Tensor,
        positions: Tensor,
        *,
        pages: int,
    ) -> None:
        """Takes in each slot's next rows, after its first `starts`: rows [batch, n, hidden size], of which the first
        `counts` count, and positions [3, batch, n]; slots, starts and counts int64 [batch].

        pages: how many of each slot's are looked at, enough for the longest.
        """
        n, device = rows.shape[1], rows.device
        cos, sin = self._model.rotary_emb(rows, positions)
        half = cos.shape[-1] // 2
        table = rotation(cos[..., None, :half], sin[..., None, :half], rows.dtype)
        counted = torch.arange(n, device=device) < counts[:, None]
        indices = starts[:, None] + torch.minimum(torch.arange(n, device=device), counts[:, None] - 1)
        places = torch.where(counted, cache.places(slots[:, None], indices), 0)
        mask = torch.arange(pages * PAGE_ROWS, device=device) <= indices[..., None]
        self._forward(cache, rows, table, places.flatten(), cache.table(slots, pages), mask)

    @torch.inference_mode()
    def decode(
        self, cache: KvCache, rows: Tensor, slots: Tensor, lengths: Tensor, positions: Tensor, *, pages: int
    ) -> Tensor:
        """One row a stream: rows [batch, hidden size] → the same after the final norm.

        lengths int64 [batch]: how many rows each slot holds; positions float32 [batch]; pages: how many of each
        slot's are looked at, enough for the longest.
        """
        places = cache.places(slots, lengths)
        mask = torch.arange(pages * PAGE_ROWS, device=rows.device) <= lengths[:, None, None]
        table = self._rotary(positions[:, None], rows.dtype)
        hidden = self._forward(cache, rows[:, None], table, places, cache.table(slots, pages), mask)
        return self._norm(hidden[:, 0])

    def _forward(
        self,
        cache: KvCache,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        places: Tensor,
        pages: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """hidden [batch, n, hidden size]; places [batch * n]; pages [batch, …]; mask [batch, n, rows of the pages]."""
        batch, n, width = hidden.shape
        for index, layer in enumerate(self._layers):
            queries, keys, values = layer.attention.project(layer.attention_norm(hidden), rotary)
            cache.store(index, places, keys.flatten(0, 1), values.flatten(0, 1))
            hidden = hidden + layer.attention.attend(queries, *cache.load(index, pages), mask)
            mixed = layer.mlp(layer.mlp_norm(hidden).view(batch * n, width))
            hidden = hidden + mixed.view(batch, n, width)
        return hidden


def text_rows(talker: Any, table: Tensor, ids: Tensor) -> Tensor:
    """What the talker hears of text: ids [...] → [..., hidden size]."""
    return talker.text_projection(F.embedding(ids, table))


def code_rows(talker: Any, codes: Tensor) -> Tensor:
    """Sums of each frame's code embeddings: int64 [frames, codebooks] → [frames, hidden size]."""
    embeddings = [talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding]
    parts = [embedding(codes[:, group]) for group, embedding in enumerate(embeddings)]
    return torch.stack(parts, dim=1).sum(1)
