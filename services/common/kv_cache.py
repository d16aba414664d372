"""The size of a transformer's KV cache, from its config."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kv_values_per_token(config: Mapping[str, Any]) -> int:
    """Return how many numbers the keys and values of one token are, over all layers.

    `config` is a text model's section of config.json; an absent head_dim is hidden_size over the heads, as in
    transformers.
    """
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return 2 * config["num_hidden_layers"] * config["num_key_value_heads"] * head_dim
