"""Models with the released checkpoint's sizes, ids and ratios, and random weights. Downloads nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import Qwen3OmniMoeConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeCode2Wav,
    Qwen3OmniMoeTalkerForConditionalGeneration,
)

from services.talker.checkpoint import SpeechConfig, SpeechModels

EMBEDDING = "thinker.model.embed_tokens.weight"


@dataclass(frozen=True)
class Size:
    """Sizes of the released checkpoint, or of a smaller one of the same shape."""

    layers: int
    hidden: int
    experts: int
    predictor_layers: int
    codec_layers: int
    codec_hidden: int
    decoder_dim: int
    text_vocabulary: int
    thinker_hidden: int


SIZES = {
    "released": Size(20, 1024, 128, 5, 8, 1024, 1536, 152_064, 2048),
    "small": Size(2, 64, 8, 1, 1, 64, 64, 160_000, 64),
    # As many experts a layer as in the released model; they are nearly all of its weights.
    "many experts": Size(8, 192, 128, 1, 1, 64, 64, 1_000, 64),
}


def config_of(size: Size) -> Any:
    """Return a config with the released checkpoint's ids and ratios."""
    head_dim = 128 if size.hidden >= 1024 else 16
    rope = {"rope_type": "default", "rope_theta": 1_000_000.0}
    talker = {
        "text_config": {
            "vocab_size": 3072,
            "hidden_size": size.hidden,
            "intermediate_size": 2 * size.hidden,
            "moe_intermediate_size": size.hidden * 3 // 8,
            "shared_expert_intermediate_size": size.hidden * 3 // 4,
            "num_hidden_layers": size.layers,
            "num_attention_heads": 16 if size.hidden >= 1024 else 4,
            "num_key_value_heads": 2,
            "head_dim": head_dim,
            "num_experts": size.experts,
            "num_experts_per_tok": 6,
            "norm_topk_prob": True,
            "max_position_embeddings": 65_536,
            "rope_parameters": rope | {"mrope_section": [head_dim * 3 // 16, head_dim * 5 // 32, head_dim * 5 // 32]},
        },
        "code_predictor_config": {
            "vocab_size": 2048,
            "hidden_size": size.hidden,
            "intermediate_size": 3 * size.hidden,
            "num_hidden_layers": size.predictor_layers,
            "num_attention_heads": 16 if size.hidden >= 1024 else 4,
            "num_key_value_heads": 8 if size.hidden >= 1024 else 2,
            "head_dim": head_dim,
            "num_code_groups": 16,
            "rope_parameters": rope,
        },
        "num_code_groups": 16,
        "thinker_hidden_size": size.thinker_hidden,
        "codec_pad_id": 2148,
        "codec_bos_id": 2149,
        "codec_eos_token_id": 2150,
        "codec_nothink_id": 2155,
        "codec_think_bos_id": 2156,
        "codec_think_eos_id": 2157,
        "speaker_id": {"chelsie": 2301, "ethan": 2302, "aiden": 2303},
        "audio_token_id": 151_675,
        "image_token_id": 151_655,
        "video_token_id": 151_656,
        "audio_start_token_id": 151_669,
        "vision_start_token_id": 151_652,
        "position_id_per_seconds": 13,
        "spatial_merge_size": 2,
    }
    heads = 16 if size.codec_hidden >= 1024 else 4
    code2wav = {
        "codebook_size": 2048,
        "hidden_size": size.codec_hidden,
        "intermediate_size": 3 * size.codec_hidden,
        "num_hidden_layers": size.codec_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "num_quantizers": 16,
        "sliding_window": 72,
        "decoder_dim": size.decoder_dim,
        "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }
    config: Any = Qwen3OmniMoeConfig(
        thinker_config={"audio_token_id": 151_675, "image_token_id": 151_655, "video_token_id": 151_656},
        talker_config=talker,
        code2wav_config=code2wav,
        enable_audio_output=True,
        im_start_token_id=151_644,
        user_token_id=872,
        assistant_token_id=77_091,
        tts_pad_token_id=151_671,
        tts_bos_token_id=151_672,
        tts_eos_token_id=151_673,
    )
    config.thinker_config.text_config.vocab_size = size.text_vocabulary
    return config


def random_models(size: Size, device: torch.device, dtype: torch.dtype) -> SpeechModels:
    """Return modules of a size with random weights. On the meta device they take no memory."""
    config = config_of(size)
    torch.manual_seed(0)
    modules: list[Any] = []
    with torch.device(device):
        for cls, part in (
            (Qwen3OmniMoeTalkerForConditionalGeneration, config.talker_config),
            (Qwen3OmniMoeCode2Wav, config.code2wav_config),
        ):
            module = cast(nn.Module, cls(part)).to(dtype).eval().requires_grad_(False)
            for parameter in module.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(std=0.02)
            modules.append(module)
        embedding = torch.randn(size.text_vocabulary, size.thinker_hidden, dtype=dtype)
    return SpeechModels(SpeechConfig.from_config(config), modules[0], modules[1], embedding)


def write_checkpoint(models: SpeechModels, size: Size, folder: Path) -> None:
    """Write `models` as the released checkpoint is stored: one matrix per expert, one file per layer."""
    folder.mkdir(parents=True, exist_ok=True)
    config_of(size).save_pretrained(folder)
    files: dict[str, dict[str, Tensor]] = {"model-embedding.safetensors": {EMBEDDING: models.text_embedding}}
    for prefix, module in (("talker.", models.talker), ("code2wav.", models.code2wav)):
        state: Mapping[str, Tensor] = module.state_dict()
        for name, tensor in state.items():
            layer = name.split(".")[2] if name.startswith("model.layers.") else "rest"
            stored = files.setdefault(f"model-{prefix}{layer}.safetensors", {})
            stored |= dict(_apart(prefix + name, tensor))
    for file_name, tensors in files.items():
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, folder / file_name)
    weight_map = {name: file_name for file_name, tensors in files.items() for name in tensors}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def _apart(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    layer, _, part = name.rpartition(".")
    if not layer.endswith(".experts"):
        yield name, tensor
        return
    for index, expert in enumerate(tensor):
        if part == "down_proj":
            yield f"{layer}.{index}.down_proj.weight", expert
        else:
            gate, up = expert.chunk(2)
            yield f"{layer}.{index}.gate_proj.weight", gate
            yield f"{layer}.{index}.up_proj.weight", up
