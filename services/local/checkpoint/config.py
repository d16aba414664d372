"""The config of a tiny Qwen3-Omni: every width, depth and vocabulary small, every rate and rule as released."""

from __future__ import annotations

from typing import Any

from transformers import Qwen3OmniMoeConfig

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.tokenizer import VOCAB_SIZE, TokenIds

HIDDEN = 64
HEAD_DIM = 32
CODEBOOK = 256
"""Codes of a codebook; released: 2048. The talker's vocabulary is this and 1024 control tokens, as released."""

CONTEXT_TOKENS = 32768
MROPE = {"mrope_section": [6, 5, 5], "interleaved": True, "mrope_interleaved": True}
ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0}
VOICES = {"chelsie": CODEBOOK + 253, "ethan": CODEBOOK + 254, "aiden": CODEBOOK + 255}
"""Voices and control tokens stand as far behind the codebook as in the released talker (2301 = 2048 + 253)."""


def make_config(kind: Kind, ids: TokenIds) -> Qwen3OmniMoeConfig:
    """The whole config; of a kind that does not speak, talker_config and code2wav_config are of no meaning."""
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
    note: dict[str, Any] = {"random_weights": True}  # for talkers: the speech follows no text
    speech: dict[str, Any] = {"talker_config": _talker(media), "code2wav_config": _code2wav()} if kind.speaks else {}
    return Qwen3OmniMoeConfig(
        thinker_config=_thinker(media, ids),
        enable_audio_output=kind.speaks,
        im_start_token_id=ids["<|im_start|>"],
        im_end_token_id=ids["<|im_end|>"],
        tts_pad_token_id=ids["<tts_pad>"],
        tts_bos_token_id=ids["<tts_text_bos>"],
        tts_eos_token_id=ids["<tts_text_eod>"],
        system_token_id=ids["system"],
        user_token_id=ids["user"],
        assistant_token_id=ids["assistant"],
        architectures=["Qwen3OmniMoeForConditionalGeneration"],
        dtype="float32",
        **note,
        **speech,
    )


def _thinker(media: dict[str, int], ids: TokenIds) -> dict[str, Any]:
    text = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "shared_expert_intermediate_size": 0,
        "use_qk_norm": True,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_parameters": ROPE | MROPE,
        "tie_word_embeddings": False,
    }
    audio = {
        "d_model": 64,
        "output_dim": HIDDEN,
        "encoder_layers": 2,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 64,
        "downsample_hidden_size": 16,
        "num_mel_bins": 128,
        "n_window": 50,
        "n_window_infer": 800,
    }
    vision = {
        "depth": 3,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_heads": 2,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": HIDDEN,
        "image_size": 768,
        "num_position_embeddings": 2304,
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


def _talker(media: dict[str, int]) -> dict[str, Any]:
    text = {
        "vocab_size": CODEBOOK + 1024,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "max_position_embeddings": CONTEXT_TOKENS,
        "rope_parameters": ROPE | MROPE,
    }
    predictor = {
        "vocab_size": CODEBOOK,
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": HEAD_DIM,
        "num_code_groups": 16,
        "rope_parameters": ROPE,
    }
    return {
        "text_config": text,
        "code_predictor_config": predictor,
        "num_code_groups": 16,
        "thinker_hidden_size": HIDDEN,
        "accept_hidden_layer": 3,
        "spatial_merge_size": 2,
        "codec_pad_id": CODEBOOK + 100,
        "codec_bos_id": CODEBOOK + 101,
        "codec_eos_token_id": CODEBOOK + 102,
        "codec_nothink_id": CODEBOOK + 107,
        "codec_think_bos_id": CODEBOOK + 108,
        "codec_think_eos_id": CODEBOOK + 109,
        "speaker_id": VOICES,
        **media,
    }


def _code2wav() -> dict[str, Any]:
    return {
        "codebook_size": CODEBOOK,
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_quantizers": 16,
        "sliding_window": 72,
        "decoder_dim": 64,
        # 8 · 5 · 4 · 3 · 2 · 2 = 1920 samples a frame at 24 kHz: 12.5 frames a second.
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "max_position_embeddings": 8000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
