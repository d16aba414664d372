"""One decoder layer's parts, from a module of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from services.talker.layers.attention import SelfAttention
from services.talker.layers.norm import RmsNorm


class Block:
    """Attention and feed-forward, each with the norm before it; the caller connects them and owns the KV cache."""

    def __init__(self, module: Any, mlp: Callable[[Any], Callable[..., Tensor]]) -> None:
        self.attention = SelfAttention(module.self_attn)
        self.mlp = mlp(module.mlp)
        self.attention_norm = RmsNorm(module.input_layernorm)
        self.mlp_norm = RmsNorm(module.post_attention_layernorm)
