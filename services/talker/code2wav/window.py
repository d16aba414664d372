"""code2wav's transformer over streams that come frame by frame: keys and values of its sliding window, in a ring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.layers.attention import Rotary, visible
from services.talker.layers.block import Block
from services.talker.layers.mlp import GatedMlp
from services.talker.layers.norm import RmsNorm


class _Layer(Block):
    """With the scales of what attention and feed-forward add."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, GatedMlp)
        self.attention_scale = module.self_attn_layer_scale.scale.detach()
        self.mlp_scale = module.mlp_layer_scale.scale.detach()


class WindowTransformer:
    """The ring holds the window and the frames of one call: what a call writes evicts nothing that it looks at."""

    def __init__(self, module: Any, slots: int, frames_at_once: int, *, fused: bool = False) -> None:
        """fused: compiled for one frame, see FusedCall."""
        self._layers = [_Layer(layer) for layer in module.layers]
        self._norm, self._rotary = RmsNorm(module.norm), Rotary(module.rotary_emb)
        self.window: int = module.config.sliding_window
        self._ring = self.window - 1 + frames_at_once
        attention, weight = self._layers[0].attention, module.norm.weight
        # [layers, slots, ring, keys and values, kv heads, head size]; slot 0 is scratch.
        self.kept = torch.zeros(
            (len(self._layers), slots + 1, self._ring, 2, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        self._layer = FusedCall(_layer, enabled=fused)

    @property
    def context(self) -> int:
        """How many frames before one its output depends on."""
        return len(self._layers) * (self.window - 1)

    def __call__(self, hidden: Tensor, slots: Tensor, starts: Tensor) -> Tensor:
        """hidden [batch, n, hidden size] → the same; starts int64 [batch]: frames of each stream before these."""
        n, device = hidden.shape[1], hidden.device
        positions = starts[:, None] + torch.arange(n, device=device)
        places = (slots[:, None] * self._ring + positions % self._ring).flatten()
        # The position that each place of the ring holds once these frames are in it; below 0 = none of this stream.
        newest = positions[:, -1:]
        held = newest - (newest - torch.arange(self._ring, device=device)).remainder(self._ring)
        held, at = held[:, None], positions[..., None]
        mask = (held <= at) & (held > at - self.window) & (held >= 0)
        mask = visible(mask, hidden.dtype)
        cos, sin = self._rotary(positions, hidden.dtype)
        step = self._layer if n == 1 else _layer
        for layer, kept in zip(self._layers, self.kept.flatten(1, 2).unbind(), strict=True):
            hidden = step(layer, hidden, cos, sin, places, slots, mask, kept=kept)
        return self._norm(hidden)


def _layer(
    layer: _Layer,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    places: Tensor,
    slots: Tensor,
    mask: Tensor,
    *,
    kept: Tensor,
) -> Tensor:
    """hidden [batch, n, hidden size] → the same; kept [slots * ring, 2, kv heads, head size], the rows' places in it
    int64 [batch * n]."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (cos, sin))
    kept.index_copy_(0, places, new.flatten(0, 1))
    ring = kept.unflatten(0, (-1, mask.shape[-1]))[slots]
    seen = layer.attention.output(layer.attention.attend(queries, ring, mask))
    hidden = torch.addcmul(hidden, seen, layer.attention_scale)
    return torch.addcmul(hidden, layer.mlp(hidden, layer.mlp_norm), layer.mlp_scale)
