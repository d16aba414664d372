"""code2wav's transformer over streams that come frame by frame: keys and values of its sliding window, in a ring."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from services.talker.layers.attention import Rotary
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

    def __init__(self, module: Any, slots: int, frames_at_once: int) -> None:
        self._layers = [_Layer(layer) for layer in module.layers]
        self._norm, self._rotary = RmsNorm(module.norm), Rotary(module.rotary_emb)
        self.window: int = module.config.sliding_window
        self._ring = self.window - 1 + frames_at_once
        attention, weight = self._layers[0].attention, module.norm.weight
        # [layers, 2, slots, ring, kv heads, head size]; slot 0 is scratch.
        self.kept = torch.zeros(
            (len(self._layers), 2, slots + 1, self._ring, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )

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
        table = self._rotary(positions, hidden.dtype)
        for layer, (kept_keys, kept_values) in zip(self._layers, self.kept, strict=True):
            queries, keys, values = layer.attention.project(layer.attention_norm(hidden), table)
            kept_keys.flatten(0, 1).index_copy_(0, places, keys.flatten(0, 1))
            kept_values.flatten(0, 1).index_copy_(0, places, values.flatten(0, 1))
            seen = layer.attention.attend(queries, kept_keys[slots], kept_values[slots], mask)
            hidden = torch.addcmul(hidden, seen, layer.attention_scale)
            hidden = torch.addcmul(hidden, layer.mlp(layer.mlp_norm(hidden)), layer.mlp_scale)
        return self._norm(hidden)
