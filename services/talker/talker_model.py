"""The talker's decoder over the paged cache: a prompt's rows in bounded pieces, then one row for each stream a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.kv_cache import PAGE_ROWS, KvCache, load
from services.talker.layers.attention import Rotary, rotation, visible
from services.talker.layers.block import Block
from services.talker.layers.mlp import SparseMlp
from services.talker.layers.norm import RmsNorm


class TalkerModel:
    """Hidden states of the talker; equal to transformers' forward with a cache, to float rounding."""

    def __init__(self, talker: Any, *, fused: bool = False) -> None:
        """fused: decode compiled, see FusedCall."""
        self._model = talker.model
        self._layers = [Block(layer, SparseMlp) for layer in talker.model.layers]
        self._norm = RmsNorm(talker.model.norm)
        self._rotary = Rotary(talker.model.rotary_emb)
        self._look = FusedCall(_look, enabled=fused)
        self._think = FusedCall(_think, enabled=fused)

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
        mask = visible(mask, rows.dtype)
        self._forward(cache, rows, table, places.flatten(), cache.table(slots, pages), mask, look=_look, think=_think)

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
        mask, page_table = visible(mask, rows.dtype), cache.table(slots, pages)
        hidden = self._forward(
            cache, rows[:, None], table, places, page_table, mask, look=self._look, think=self._think
        )
        return self._norm(hidden[:, 0])

    def _forward(
        self,
        cache: KvCache,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        places: Tensor,
        pages: Tensor,
        mask: Tensor,
        *,
        look: Callable[..., Tensor],
        think: Callable[..., Tensor],
    ) -> Tensor:
        """hidden [batch, n, hidden size]; places [batch * n]; pages [batch, …]; mask [batch, n, rows of the pages].

        look and think: the functions below, or what they were compiled to.
        """
        for layer, kept in zip(self._layers, cache.rows.unbind(), strict=True):
            queries = look(layer, hidden, *rotary, places, kept=kept)
            hidden = think(layer, hidden, layer.attention.attend(queries, load(kept, pages), mask))
        return hidden


def _look(layer: Block, hidden: Tensor, cos: Tensor, sin: Tensor, places: Tensor, *, kept: Tensor) -> Tensor:
    """Puts the rows' keys and values where they are kept → their queries [batch, n, heads, head size]."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (cos, sin))
    kept.index_copy_(0, places, new.flatten(0, 1))
    return queries


def _think(layer: Block, hidden: Tensor, seen: Tensor) -> Tensor:
    """What follows attention."""
    hidden = hidden + layer.attention.output(seen)
    return hidden + layer.mlp(layer.mlp_norm(hidden).flatten(0, 1)).view(hidden.shape)


def text_rows(talker: Any, table: Tensor, ids: Tensor) -> Tensor:
    """What the talker hears of text: ids [...] → [..., hidden size]."""
    return talker.text_projection(F.embedding(ids, table))


def code_rows(talker: Any, codes: Tensor) -> Tensor:
    """Sums of each frame's code embeddings: int64 [frames, codebooks] → [frames, hidden size]."""
    embeddings = [talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding]
    parts = [embedding(codes[:, group]) for group, embedding in enumerate(embeddings)]
    return torch.stack(parts, dim=1).sum(1)
