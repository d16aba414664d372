"""The talker's decoder over the paged KV cache: prompts in bounded chunks, then one token for each stream a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.kv_cache import BLOCK_SIZE, KvCache, gather_kv
from services.talker.layers.attention import Rotary, attention_mask, rotation
from services.talker.layers.block import Block
from services.talker.layers.mlp import SparseMlp
from services.talker.layers.norm import RmsNorm


class TalkerModel:
    """Hidden states of the talker; equal to transformers' forward with a cache, to float rounding."""

    def __init__(self, talker: Any, *, fused: bool = False) -> None:
        """fused: compile decode, see FusedCall."""
        self._model = talker.model
        self._layers = [Block(layer, SparseMlp) for layer in talker.model.layers]
        self._norm = RmsNorm(talker.model.norm)
        self._rotary = Rotary(talker.model.rotary_emb)
        self._qkv = FusedCall(_qkv, enabled=fused)
        self._post_attention = FusedCall(_post_attention, enabled=fused)
        self._paged_attention: Callable[..., Tensor] | None = None
        if self._model.norm.weight.device.type == "cuda":
            from services.talker.layers.paged_attention import paged_attention  # needs triton

            self._paged_attention = paged_attention

    def new_cache(self, *, num_blocks: int, slots: int, blocks_per_slot: int) -> KvCache:
        attention = self._layers[0].attention
        weight = self._model.norm.weight
        return KvCache(
            len(self._layers),
            attention.kv_heads,
            attention.head_size,
            num_blocks=num_blocks,
            slots=slots,
            blocks_per_slot=blocks_per_slot,
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
        embeds: Tensor,
        positions: Tensor,
        *,
        blocks: int,
    ) -> None:
        """Write each slot's next tokens to the cache, after its first `starts`.

        embeds [batch, n, hidden size], of which the first `counts` are real, and positions [3, batch, n]; slots, starts
        and counts int64 [batch]. blocks: how many of each slot's blocks to attend to, enough for the longest.
        """
        n, device = embeds.shape[1], embeds.device
        cos, sin = self._model.rotary_emb(embeds, positions)
        half = cos.shape[-1] // 2
        rotary = rotation(cos[..., None, :half], sin[..., None, :half], embeds.dtype)
        is_real = torch.arange(n, device=device) < counts[:, None]
        indices = starts[:, None] + torch.minimum(torch.arange(n, device=device), counts[:, None] - 1)
        locations = torch.where(is_real, cache.token_locations(slots[:, None], indices), 0).flatten()
        attend = _gathered_attention(cache, slots, indices, embeds.dtype, blocks)
        self._forward(cache, embeds, rotary, locations, attend, qkv=_qkv, post_attention=_post_attention)

    @torch.inference_mode()
    def decode(
        self, cache: KvCache, embeds: Tensor, slots: Tensor, lengths: Tensor, positions: Tensor, *, blocks: int
    ) -> Tensor:
        """Feed one token of each stream: embeds [batch, hidden size] → hidden states after the final norm, same shape.

        lengths int64 [batch]: how many tokens each slot holds; positions float32 [batch]. blocks: on a CPU, how many of
        each slot's blocks to attend to, enough for the longest. A GPU reads them in place, all that there are.
        """
        locations = cache.token_locations(slots, lengths)
        rotary = self._rotary(positions[:, None], embeds.dtype)
        if self._paged_attention is None:
            attend = _gathered_attention(cache, slots, lengths[:, None], embeds.dtype, blocks)
        else:
            attend = _attention_in_place(self._paged_attention, cache, slots, lengths + 1)
        qkv, post_attention = self._qkv, self._post_attention
        hidden = self._forward(
            cache, embeds[:, None], rotary, locations, attend, qkv=qkv, post_attention=post_attention
        )
        return self._norm(hidden[:, 0])

    def _forward(
        self,
        cache: KvCache,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        locations: Tensor,
        attend: _Attend,
        *,
        qkv: Callable[..., Tensor],
        post_attention: Callable[..., Tensor],
    ) -> Tensor:
        """hidden [batch, n, hidden size]; locations int64 [batch * n]: where the new keys and values go.

        qkv and post_attention: the functions below, or their compiled forms.
        """
        for layer, kv in zip(self._layers, cache.kv.unbind(), strict=True):
            queries = qkv(layer, hidden, *rotary, locations, kv_cache=kv)
            hidden = post_attention(layer, hidden, attend(layer, queries, kv))
        return hidden


_Attend = Callable[[Block, Tensor, Tensor], Tensor]
"""(layer, its queries [batch, n, heads, head size], its part of the cache) → [batch, n, heads * head size]."""


def _gathered_attention(cache: KvCache, slots: Tensor, indices: Tensor, dtype: torch.dtype, blocks: int) -> _Attend:
    """Return attention over a copy of each slot's first `blocks`; indices int64 [batch, n]: each query's own token."""
    mask = torch.arange(blocks * BLOCK_SIZE, device=slots.device) <= indices[..., None]
    mask, block_tables = attention_mask(mask, dtype), cache.block_tables(slots, blocks)
    return lambda layer, queries, kv: layer.attention.attend(queries, gather_kv(kv, block_tables), mask)


def _attention_in_place(
    paged_attention: Callable[..., Tensor], cache: KvCache, slots: Tensor, lengths: Tensor
) -> _Attend:
    """Return attention with one query of each stream that reads its blocks in place."""
    tables = cache.tables
    return lambda _, queries, kv: paged_attention(queries[:, 0], kv, tables, slots, lengths).flatten(1)[:, None]


def _qkv(layer: Block, hidden: Tensor, cos: Tensor, sin: Tensor, locations: Tensor, *, kv_cache: Tensor) -> Tensor:
    """Write the tokens' keys and values to the cache and return their queries [batch, n, heads, head size]."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (cos, sin))
    kv_cache.index_copy_(0, locations, new.flatten(0, 1))
    return queries


def _post_attention(layer: Block, hidden: Tensor, attn_output: Tensor) -> Tensor:
    """The rest of the layer after attention."""
    hidden = hidden + layer.attention.output(attn_output)
    return hidden + layer.mlp(layer.mlp_norm(hidden).flatten(0, 1)).view(hidden.shape)


def text_embeds(talker: Any, table: Tensor, ids: Tensor) -> Tensor:
    """The talker's input embeddings of text: ids [...] → [..., hidden size]."""
    return talker.text_projection(F.embedding(ids, table))


def code_embeds(talker: Any, codes: Tensor) -> Tensor:
    """Sums of each frame's code embeddings: int64 [frames, codebooks] → [frames, hidden size]."""
    embeddings = [talker.model.codec_embedding, *talker.code_predictor.model.codec_embedding]
    parts = [embedding(codes[:, group]) for group, embedding in enumerate(embeddings)]
    return torch.stack(parts, dim=1).sum(1)
