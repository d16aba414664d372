"""The config of the tiny Qwen3-Omni that is trained.

The thinker and its towers take at most 6 M parameters, talker with predictor and code2wav at most 6.5 M: 25 MB in fp16.
"""

from __future__ import annotations

from transformers import Qwen3OmniMoeConfig

from services.local.checkpoint.architecture import Sizes, control_ids, voice_ids, whole_config
from services.local.checkpoint.tokenizer import TokenIds
from training.world.tokenizer import HIDDEN

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920
"""12.5 frames a second."""

CODEBOOK = 128
"""Codes of a codebook."""

_CONTROL = control_ids(CODEBOOK)
CODEC_PAD, CODEC_BOS, CODEC_EOS = _CONTROL["codec_pad_id"], _CONTROL["codec_bos_id"], _CONTROL["codec_eos_token_id"]
CODEC_NOTHINK = _CONTROL["codec_nothink_id"]
CODEC_THINK_BOS, CODEC_THINK_EOS = _CONTROL["codec_think_bos_id"], _CONTROL["codec_think_eos_id"]
SPEAKERS = voice_ids(CODEBOOK)

SIZES = Sizes(
    codebook=CODEBOOK,
    attention={"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32},
    thinker={
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "moe_intermediate_size": 96,
        "num_hidden_layers": 4,
        "num_experts": 8,
    },
    audio={
        "d_model": 192,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 384,
        "downsample_hidden_size": 48,
    },
    vision={"depth": 3, "hidden_size": 128, "intermediate_size": 256, "num_heads": 4, "image_size": 384},
    talker={
        "hidden_size": 192,
        "intermediate_size": 192,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 192,
        "num_hidden_layers": 4,
        "num_experts": 4,
    },
    predictor={"hidden_size": 192, "intermediate_size": 384, "num_hidden_layers": 1},
    code2wav={
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "decoder_dim": 192,
        "layer_scale_initial_scale": 0.1,
    },
)
"""The tiny talker says its text, whatever the thinker's hidden states of media are. So it is trained with noise of
their size there, before the thinker exists."""


def make_config(ids: TokenIds, vocab_size: int, *, speaks: bool) -> Qwen3OmniMoeConfig:
    """Return the config. Where it does not speak, talker_config and code2wav_config are of no meaning.

    vocab_size: rows of the thinker's embedding table.
    """
    return whole_config(SIZES, ids, vocab_size, speaks=speaks)
