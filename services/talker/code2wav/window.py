"""code2wav's transformer, frame by frame: a ring buffer holds the keys and values of its sliding window."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from services.talker.fusion import FusedCall
from services.talker.layers.attention import Rotary, attention_mask
from services.talker.layers.block import Block
from services.talker.layers.mlp import GatedMlp
from services.talker.layers.norm import RmsNorm


class _Layer(Block):
    """A block with scales on the outputs of attention and feed-forward."""

    def __init__(self, module: Any) -> None:
        super().__init__(module, GatedMlp)
        self.attention_scale = module.self_attn_layer_scale.scale.detach()
        self.mlp_scale = module.mlp_layer_scale.scale.detach()


class WindowTransformer:
    """The ring holds the window and the frames of one call, so that a call never overwrites keys that it attends to."""

    def __init__(self, module: Any, slots: int, frames_at_once: int, *, fused: bool = False) -> None:
        """fused: compiled for one frame, see FusedCall."""
        self._layers = [_Layer(layer) for layer in module.layers]
        self._norm, self._rotary = RmsNorm(module.norm), Rotary(module.rotary_emb)
        self.window: int = module.config.sliding_window
        self._ring = self.window - 1 + frames_at_once
        attention, weight = self._layers[0].attention, module.norm.weight
        # [layers, slots, ring, keys and values, kv heads, head size]; slot 0 is scratch.
        self.kv_cache = torch.zeros(
            (len(self._layers), slots + 1, self._ring, 2, attention.kv_heads, attention.head_size),
            dtype=weight.dtype,
            device=weight.device,
        )
        self._layer = FusedCall(_layer, enabled=fused)

    @property
    def context(self) -> int:
        """How many earlier frames a frame's output depends on."""
        return len(self._layers) * (self.window - 1)

    def __call__(self, hidden: Tensor, slots: Tensor, starts: Tensor) -> Tensor:
        """hidden [batch, n, hidden size] → the same shape; starts int64 [batch]: each stream's past frames."""
        n, device = hidden.shape[1], hidden.device
        positions = starts[:, None] + torch.arange(n, device=device)
        locations = (slots[:, None] * self._ring + positions % self._ring).flatten()
        # The position that each entry of the ring holds after this call; below 0 = none of this stream.
        newest = positions[:, -1:]
        held = newest - (newest - torch.arange(self._ring, device=device)).remainder(self._ring)
        held, at = held[:, None], positions[..., None]
        mask = (held <= at) & (held > at - self.window) & (held >= 0)
        mask = attention_mask(mask, hidden.dtype)
        cos, sin = self._rotary(positions, hidden.dtype)
        step = self._layer if n == 1 else _layer
        for layer, kv_cache in zip(self._layers, self.kv_cache.flatten(1, 2).unbind(), strict=True):
            hidden = step(layer, hidden, cos, sin, locations, slots, mask, kv_cache=kv_cache)
        return self._norm(hidden)


def _layer(
    layer: _Layer,
    hidden: Tensor,
    cos: Tensor,
    sin: Tensor,
    locations: Tensor,
    slots: Tensor,
    mask: Tensor,
    *,
    kv_cache: Tensor,
) -> Tensor:
    """hidden [batch, n, hidden size] → the same shape; kv_cache [slots * ring, 2, kv heads, head size]; locations int64
    [batch * n]: where the new keys and values go in it."""
    queries, new = layer.attention.project(hidden, layer.attention_norm, (cos, sin))
    kv_cache.index_copy_(0, locations, new.flatten(0, 1))
    ring = kv_cache.unflatten(0, (-1, mask.shape[-1]))[slots]
    attn_output = layer.attention.output(layer.attention.attend(queries, ring, mask))
    hidden = torch.addcmul(hidden, attn_output, layer.attention_scale)
    return torch.addcmul(hidden, layer.mlp(hidden, layer.mlp_norm), layer.mlp_scale)
