"""Reads what speech needs out of a Qwen3-Omni checkpoint: talker with code predictor, code2wav, the thinker's embedding
table. The thinker itself is never read. Every size, id and voice comes from the checkpoint's config.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import Qwen3OmniMoeConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeCode2Wav,
    Qwen3OmniMoeTalkerForConditionalGeneration,
)

from services.common.model_card import DEFAULT_VOICE

# generate() never lets the talker draw the topmost ids of its vocabulary, but for its end token.
SUPPRESSED_IDS = 1024

_EMBEDDING = "thinker.model.embed_tokens.weight"
_EXPERT = re.compile(r"(?P<layer>.+\.experts)\.(?P<index>\d+)\.(?P<part>gate_proj|up_proj|down_proj)\.weight")


class CheckpointError(Exception):
    """The folder holds no checkpoint that can speak; the message says what is wrong with it."""


@dataclass(frozen=True)
class SpeechConfig:
    """Ids, sizes and rates of the speech side."""

    im_start_id: int
    user_id: int
    assistant_id: int
    audio_pad_id: int
    image_pad_id: int
    video_pad_id: int
    audio_start_id: int
    vision_start_id: int
    tts_pad_id: int
    tts_bos_id: int
    tts_eos_id: int
    codec_nothink_id: int
    codec_think_bos_id: int
    codec_think_eos_id: int
    codec_pad_id: int
    codec_bos_id: int
    codec_eos_id: int
    # Lower-case name → id in the talker's vocabulary, in the config's order.
    voices: Mapping[str, int]
    text_vocab_size: int
    thinker_hidden_size: int
    spatial_merge_size: int
    position_id_per_seconds: float
    # Longest sequence of the talker: prompt rows plus frames.
    max_positions: int
    codebooks: int
    codebook_size: int
    samples_per_frame: int

    @classmethod
    def from_config(cls, config: Qwen3OmniMoeConfig) -> Self:
        """Raises CheckpointError where the checkpoint has no talker."""
        root: Any = config
        if not root.enable_audio_output:
            raise CheckpointError("this checkpoint has no talker: its config says enable_audio_output = false")
        talker, code2wav = root.talker_config, root.code2wav_config
        if not talker.speaker_id:
            raise CheckpointError("the talker's config names no voice (speaker_id)")
        samples_per_frame = 1
        for rate in (*code2wav.upsample_rates, *code2wav.upsampling_ratios):
            samples_per_frame *= rate
        return cls(
            im_start_id=root.im_start_token_id,
            user_id=root.user_token_id,
            assistant_id=root.assistant_token_id,
            audio_pad_id=root.thinker_config.audio_token_id,
            image_pad_id=root.thinker_config.image_token_id,
            video_pad_id=root.thinker_config.video_token_id,
            audio_start_id=talker.audio_start_token_id,
            vision_start_id=talker.vision_start_token_id,
            tts_pad_id=root.tts_pad_token_id,
            tts_bos_id=root.tts_bos_token_id,
            tts_eos_id=root.tts_eos_token_id,
            codec_nothink_id=talker.codec_nothink_id,
            codec_think_bos_id=talker.codec_think_bos_id,
            codec_think_eos_id=talker.codec_think_eos_id,
            codec_pad_id=talker.codec_pad_id,
            codec_bos_id=talker.codec_bos_id,
            codec_eos_id=talker.codec_eos_token_id,
            voices={name.lower(): speaker for name, speaker in talker.speaker_id.items()},
            text_vocab_size=root.thinker_config.text_config.vocab_size,
            thinker_hidden_size=talker.thinker_hidden_size,
            spatial_merge_size=talker.spatial_merge_size,
            position_id_per_seconds=talker.position_id_per_seconds,
            max_positions=talker.text_config.max_position_embeddings,
            codebooks=talker.num_code_groups,
            codebook_size=code2wav.codebook_size,
            samples_per_frame=samples_per_frame,
        )

    @property
    def default_voice(self) -> str:
        return DEFAULT_VOICE if DEFAULT_VOICE in self.voices else next(iter(self.voices))


@dataclass(frozen=True)
class SpeechModels:
    """The loaded modules, in eval mode, on one device. text_embedding: [text vocabulary, thinker hidden size]."""

    config: SpeechConfig
    talker: Any
    code2wav: Any
    text_embedding: Tensor

    @property
    def device(self) -> torch.device:
        return self.text_embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.text_embedding.dtype

    @property
    def runs_captured(self) -> bool:
        """Whether steps are compiled and captured as CUDA graphs. In float32 a GPU runs all but the noise's operations
        as they are: torch's grouped product of the experts then asks the host for their loads."""
        return self.device.type == "cuda" and self.dtype == torch.bfloat16

    @property
    def bytes(self) -> int:
        """What the weights take."""
        modules = (*self.talker.parameters(), *self.code2wav.parameters(), self.text_embedding)
        return sum(tensor.nbytes for tensor in modules)


def load_speech_models(folder: Path, *, device: str = "cpu", dtype: str = "auto") -> SpeechModels:
    """Loads from a checkpoint's folder. dtype: "auto" (the checkpoint's own), "float32" or "bfloat16".

    Raises CheckpointError where files or tensors are missing or left over.
    """
    try:
        config = Qwen3OmniMoeConfig.from_pretrained(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: no readable config.json") from error
    speech_config = SpeechConfig.from_config(config)
    weights = _Weights(folder, torch.device(device))
    embedding = weights.read(_EMBEDDING)
    target = embedding.dtype if dtype == "auto" else cast(torch.dtype, getattr(torch, dtype))
    with torch.device("meta"):
        talker = Qwen3OmniMoeTalkerForConditionalGeneration(cast(Any, config).talker_config)
        code2wav = Qwen3OmniMoeCode2Wav(cast(Any, config).code2wav_config)
    _fill(talker, weights, "talker.", target)
    _fill(code2wav, weights, "code2wav.", target)
    for module in (talker, code2wav):
        module.eval().requires_grad_(False)
    return SpeechModels(speech_config, talker, code2wav, embedding.to(target))


class _Weights:
    """Reads single tensors of a checkpoint, whichever of its files they are in."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._folder, self._device = folder, device
        index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
        if index.is_file():
            self._file_of: dict[str, str] = json.loads(index.read_text())["weight_map"]
        elif single.is_file():
            with safe_open(single, "pt") as file:
                self._file_of = dict.fromkeys(file.keys(), single.name)
        else:
            raise CheckpointError(f"{folder}: no safetensors")

    def read(self, name: str) -> Tensor:
        for _, tensor in self._read_files([name]):
            return tensor
        raise CheckpointError(f"{self._folder}: no tensor {name}")

    def read_under(self, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """Every tensor whose name begins with `prefix`, named without it."""
        for name, tensor in self._read_files([name for name in self._file_of if name.startswith(prefix)]):
            yield name.removeprefix(prefix), tensor

    def _read_files(self, names: list[str]) -> Iterator[tuple[str, Tensor]]:
        for file_name in sorted({self._file_of[name] for name in names if name in self._file_of}):
            try:
                with safe_open(self._folder / file_name, "pt", device=str(self._device)) as file:
                    for name in names:
                        if self._file_of.get(name) == file_name:
                            yield name, file.get_tensor(name)
            except FileNotFoundError as error:
                raise CheckpointError(f"{self._folder}: {file_name} is missing") from error


def _fill(module: nn.Module, weights: _Weights, prefix: str, dtype: torch.dtype) -> None:
    """Gives a module that was built on the meta device its weights and its computed buffers."""
    tensors = {name: tensor.to(dtype) for name, tensor in weights.read_under(prefix)}
    try:
        module.load_state_dict(_fuse_experts(tensors), strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(f"{prefix}* does not fit its config: {error}") from error
    device = next(module.parameters()).device
    for part in module.modules():
        computed = {name: buffer for name, buffer in part.named_buffers(recurse=False) if buffer.is_meta}
        if "inv_freq" in computed:  # a rotary embedding: what its constructor computes
            fresh = type(part)(cast(Any, part).config)
            computed = {name: fresh.get_buffer(name) for name in computed}
        elif "code_offset" in computed:  # where each codebook begins in code2wav's one embedding table
            config = cast(Any, part).config
            offsets = torch.arange(config.num_quantizers).view(1, -1, 1) * config.codebook_size
            computed = {"code_offset": offsets}
        for name, buffer in computed.items():
            part.register_buffer(name, buffer.to(device), persistent=False)


def _fuse_experts(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A checkpoint keeps each expert's matrices apart; the module keeps one tensor for all: gate over up, and down."""
    experts: dict[str, dict[str, dict[int, Tensor]]] = {}
    for name in list(tensors):
        if match := _EXPERT.fullmatch(name):
            parts = experts.setdefault(match["layer"], {})
            parts.setdefault(match["part"], {})[int(match["index"])] = tensors.pop(name)
    for layer, parts in experts.items():
        gate, up, down = (
            torch.stack([parts[part][index] for index in sorted(parts[part])])
            for part in ("gate_proj", "up_proj", "down_proj")
        )
        tensors[f"{layer}.gate_up_proj"] = torch.cat((gate, up), dim=1)
        tensors[f"{layer}.down_proj"] = down
    return tensors
