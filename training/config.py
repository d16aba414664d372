"""The config of the tiny Qwen3-Omni: the released architecture in all its parts, of few and small layers.

The thinker and its towers take at most 6 M parameters, talker with predictor and code2wav at most 6.5 M: 25 MB in fp16.
"""

from __future__ import annotations

from typing import Any

from transformers import Qwen3OmniMoeConfig

from services.local.checkpoint.tokenizer import TokenIds
from training.world.tokenizer import HIDDEN

SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920
"""12.5 frames a second."""

CODEBOOKS = 16
CODEBOOK = 128
"""Codes of a codebook; released: 2048. The talker's vocabulary is this and 1024 control tokens, as released."""

CODEC_PAD, CODEC_BOS, CODEC_EOS = CODEBOOK + 100, CODEBOOK + 101, CODEBOOK + 102
CODEC_NOTHINK, CODEC_THINK_BOS, CODEC_THINK_EOS = CODEBOOK + 107, CODEBOOK + 108, CODEBOOK + 109
SPEAKERS = {"chelsie": CODEBOOK + 253, "ethan": CODEBOOK + 254, "aiden": CODEBOOK + 255}
"""Control tokens and speakers stand as far behind the codebook as in the released talker (2301 = 2048 + 253)."""

ACCEPT_HIDDEN_LAYER = 3
"""The talker takes the thinker's hidden states of media after so many layers. Speech does not depend on them: the
tiny talker says its text, so it is trained with anything there (noise of their size), before the thinker exists."""

_HEADS: dict[str, Any] = {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 32}
_CONTEXT_TOKENS = 32768
_MROPE = {"mrope_section": [6, 5, 5], "interleaved": True, "mrope_interleaved": True}
_ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0}


def make_config(ids: TokenIds, vocab_size: int, *, speaks: bool) -> Qwen3OmniMoeConfig:
    """Return the whole config. Where it does not speak, talker_config and code2wav_config are of no meaning.

    vocab_size: rows of the thinker's embedding table.
    """
    media = {
        "audio_token_id": ids["<|audio_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "audio_start_token_id": ids["<|audio_start|>"],
        "audio_end_token_id": ids["<|audio_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "position_id_per_seconds": 13,
        "seconds_per_chunk": 2,
    }
    speech: dict[str, Any] = {"talker_config": talker_config(media), "code2wav_config": code2wav_config()}
    return Qwen3OmniMoeConfig(
        thinker_config=thinker_config(media, ids, vocab_size),
        enable_audio_output=speaks,
        im_start_token_id=ids["<|im_start|>"],
        im_end_token_id=ids["<|im_end|>"],
        tts_pad_token_id=ids["<tts_pad>"],
        tts_bos_token_id=ids["<tts_text_bos>"],
        tts_eos_token_id=ids["<tts_text_eod>"],
        system_token_id=ids["system"],
        user_token_id=ids["user"],
        assistant_token_id=ids["assistant"],
        architectures=["Qwen3OmniMoeForConditionalGeneration"],
        **(speech if speaks else {}),
    )


def thinker_config(media: dict[str, int], ids: TokenIds, vocab_size: int) -> dict[str, Any]:
    text = {
        "vocab_size": vocab_size,
        "hidden_size": HIDDEN,
        "intermediate_size": 2 * HIDDEN,
        "moe_intermediate_size": 96,
        "num_hidden_layers": 4,
        **_HEADS,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "shared_expert_intermediate_size": 0,
        "use_qk_norm": True,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rope_parameters": _ROPE | _MROPE,
        "tie_word_embeddings": False,
    }
    audio = {
        "d_model": 192,
        "output_dim": HIDDEN,
        "encoder_layers": 4,
        "encoder_attention_heads": 4,
        "encoder_ffn_dim": 384,
        "downsample_hidden_size": 48,
        "num_mel_bins": 128,
        "n_window": 50,
        "n_window_infer": 800,
    }
    vision = {
        "depth": 3,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_heads": 4,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        # 24 × 24 positions of 16 pixels: vLLM takes their number from the one, transformers from the other.
        "image_size": 384,
        "num_position_embeddings": 576,
        "deepstack_visual_indexes": [0, 1],
        "tokens_per_second": 2,
        # Without it vLLM leaves out the absolute position embedding that transformers always adds.
        "apply_vit_abs_pos_embed": True,
    }
    return {
        "text_config": text,
        "audio_config": audio,
        "vision_config": vision,
        "user_token_id": ids["user"],
        **media,
    }


def talker_config(media: dict[str, int]) -> dict[str, Any]:
    text = {
        "vocab_size": CODEBOOK + 1024,
        "hidden_size": 192,
        "intermediate_size": 192,
        "moe_intermediate_size": 96,
        "shared_expert_intermediate_size": 192,
        "num_hidden_layers": 4,
        **_HEADS,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rope_parameters": _ROPE | _MROPE,
    }
    predictor = {
        "vocab_size": CODEBOOK,
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 1,
        **_HEADS,
        "num_code_groups": CODEBOOKS,
        "rope_parameters": _ROPE,
    }
    return {
        "text_config": text,
        "code_predictor_config": predictor,
        "num_code_groups": CODEBOOKS,
        "thinker_hidden_size": HIDDEN,
        "accept_hidden_layer": ACCEPT_HIDDEN_LAYER,
        "spatial_merge_size": 2,
        "codec_pad_id": CODEC_PAD,
        "codec_bos_id": CODEC_BOS,
        "codec_eos_token_id": CODEC_EOS,
        "codec_nothink_id": CODEC_NOTHINK,
        "codec_think_bos_id": CODEC_THINK_BOS,
        "codec_think_eos_id": CODEC_THINK_EOS,
        "speaker_id": SPEAKERS,
        **media,
    }


def code2wav_config() -> dict[str, Any]:
    return {
        "codebook_size": CODEBOOK,
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_quantizers": CODEBOOKS,
        "sliding_window": 72,
        "layer_scale_initial_scale": 0.1,
        "decoder_dim": 192,
        # 8 · 5 · 4 · 3 · 2 · 2 = 1920 samples a frame at 24 kHz: 12.5 frames a second.
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "max_position_embeddings": 8000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
