"""The released architecture in all its parts, of any size: every rate and rule is as released, widths and depths are
given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import Qwen3OmniMoeConfig

from services.local.checkpoint.tokenizer import TokenIds

CODEBOOKS = 16
CONTROL_TOKENS = 1024
"""Of the talker's vocabulary, behind the codes of a codebook."""

_CONTEXT_TOKENS = 32768
_MROPE = {"mrope_section": [6, 5, 5], "interleaved": True, "mrope_interleaved": True}
_ROPE = {"rope_type": "default", "rope_theta": 1_000_000.0}


@dataclass(frozen=True)
class Sizes:
    """What differs between models: each part's fields as transformers' config of it names them.

    codebook: codes of a codebook; released: 2048. attention: heads of thinker, talker and predictor.
    """

    codebook: int
    attention: Mapping[str, int]
    thinker: Mapping[str, int]
    audio: Mapping[str, int]
    vision: Mapping[str, int]
    talker: Mapping[str, int]
    predictor: Mapping[str, int]
    code2wav: Mapping[str, float]


def control_ids(codebook: int) -> dict[str, int]:
    """Return the talker's control tokens. They stand as far behind the codebook as in the released talker."""
    return {
        "codec_pad_id": codebook + 100,
        "codec_bos_id": codebook + 101,
        "codec_eos_token_id": codebook + 102,
        "codec_nothink_id": codebook + 107,
        "codec_think_bos_id": codebook + 108,
        "codec_think_eos_id": codebook + 109,
    }


def voice_ids(codebook: int) -> dict[str, int]:
    """Return the voices' tokens, which stand behind the codebook as the control tokens do: 2301 = 2048 + 253."""
    return {"chelsie": codebook + 253, "ethan": codebook + 254, "aiden": codebook + 255}


def whole_config(sizes: Sizes, ids: TokenIds, vocab_size: int, *, speaks: bool, **more: Any) -> Qwen3OmniMoeConfig:
    """Return the config. Where it does not speak, its talker_config and code2wav_config are of no meaning.

    vocab_size: rows of the thinker's embedding table. more: other fields.
    """
    speech: dict[str, Any] = {"talker_config": talker_config(sizes, ids), "code2wav_config": code2wav_config(sizes)}
    return Qwen3OmniMoeConfig(
        thinker_config=thinker_config(sizes, ids, vocab_size),
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
        **more,
        **(speech if speaks else {}),
    )


def thinker_config(sizes: Sizes, ids: TokenIds, vocab_size: int) -> dict[str, Any]:
    hidden = sizes.thinker["hidden_size"]
    text = {
        **sizes.thinker,
        **sizes.attention,
        "vocab_size": vocab_size,
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
    audio = {**sizes.audio, "output_dim": hidden, "num_mel_bins": 128, "n_window": 50, "n_window_infer": 800}
    vision = {
        **sizes.vision,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "out_hidden_size": hidden,
        # vLLM takes the number of positions from the one, transformers from the other.
        "num_position_embeddings": (sizes.vision["image_size"] // 16) ** 2,
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
        **_media(ids),
    }


def talker_config(sizes: Sizes, ids: TokenIds) -> dict[str, Any]:
    text = {
        **sizes.talker,
        **sizes.attention,
        "vocab_size": sizes.codebook + CONTROL_TOKENS,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "max_position_embeddings": _CONTEXT_TOKENS,
        "rope_parameters": _ROPE | _MROPE,
    }
    predictor = {
        **sizes.predictor,
        **sizes.attention,
        "vocab_size": sizes.codebook,
        "num_code_groups": CODEBOOKS,
        "rope_parameters": _ROPE,
    }
    return {
        "text_config": text,
        "code_predictor_config": predictor,
        "num_code_groups": CODEBOOKS,
        "thinker_hidden_size": sizes.thinker["hidden_size"],
        # The talker takes the thinker's hidden states of media after so many layers.
        "accept_hidden_layer": 3,
        "spatial_merge_size": 2,
        "speaker_id": voice_ids(sizes.codebook),
        **control_ids(sizes.codebook),
        **_media(ids),
    }


def code2wav_config(sizes: Sizes) -> dict[str, Any]:
    return {
        **sizes.code2wav,
        "codebook_size": sizes.codebook,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_quantizers": CODEBOOKS,
        "sliding_window": 72,
        # 8 · 5 · 4 · 3 · 2 · 2 = 1920 samples a frame at 24 kHz: 12.5 frames a second.
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "max_position_embeddings": 8000,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }


def _media(ids: TokenIds) -> dict[str, int]:
    return {
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
