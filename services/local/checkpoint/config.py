"""The config of the tiny Qwen3-Omni that the local stack serves."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3OmniMoeConfig

from services.local.checkpoint.architecture import Sizes, whole_config
from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.tokenizer import VOCAB_SIZE, TokenIds

SIZES = Sizes(
    codebook=256,
    attention={"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32},
    thinker={
        "hidden_size": 64,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_experts": 8,
    },
    audio={
        "d_model": 64,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "downsample_hidden_size": 16,
    },
    vision={"depth": 3, "hidden_size": 64, "intermediate_size": 64, "num_heads": 2, "image_size": 768},
    talker={
        "hidden_size": 64,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_experts": 4,
    },
    predictor={"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1},
    code2wav={"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "decoder_dim": 64},
)


def make_config(kind: Kind, ids: TokenIds) -> Qwen3OmniMoeConfig:
    """Return the config of a kind. Where that does not speak, talker_config and code2wav_config are of no meaning."""
    note: dict[str, Any] = {"random_weights": True}  # for talkers: the speech follows no text
    return whole_config(SIZES, ids, VOCAB_SIZE, speaks=kind.speaks, dtype="float32", **note)
