"""The speech side of a Qwen3-Omni checkpoint: talker with code predictor, code2wav and the thinker's embedding table.

The rest of the thinker is never read. Every size, id and voice comes from the checkpoint's config.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor
from transformers import Qwen3OmniMoeConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import (
    Qwen3OmniMoeCode2Wav,
    Qwen3OmniMoeTalkerForConditionalGeneration,
)

from services.common.model_card import DEFAULT_VOICE
from services.talker.weights import CheckpointError, CheckpointFiles, fill

# generate() never lets the talker draw the topmost ids of its vocabulary, but for its end token.
SUPPRESSED_IDS = 1024

_EMBEDDING = "thinker.model.embed_tokens.weight"


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
    # Name in lower case → id in the talker's vocabulary, in the config's order.
    voices: Mapping[str, int]
    text_vocab_size: int
    thinker_hidden_size: int
    spatial_merge_size: int
    position_id_per_seconds: float
    # Longest sequence of the talker: prompt tokens plus frames.
    max_positions: int
    codebooks: int
    codebook_size: int
    samples_per_frame: int
    # A tiny checkpoint for tests and trials: its speech follows no text.
    has_random_weights: bool

    @classmethod
    def from_config(cls, config: Qwen3OmniMoeConfig) -> Self:
        """Raise CheckpointError where the checkpoint has no talker."""
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
            has_random_weights=getattr(root, "random_weights", False),
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
        """Whether steps are compiled and captured as CUDA graphs. In float32 a GPU captures only the noise: torch's
        grouped matrix product of the experts then needs the host to read how many tokens each one gets."""
        return self.device.type == "cuda" and self.dtype == torch.bfloat16

    @property
    def bytes(self) -> int:
        """The size of the weights."""
        modules = (*self.talker.parameters(), *self.code2wav.parameters(), self.text_embedding)
        return sum(tensor.nbytes for tensor in modules)


def load_speech_models(folder: Path, *, device: str = "cpu", dtype: str = "auto") -> SpeechModels:
    """Load a checkpoint's folder. dtype: "float32", "bfloat16" or "auto", which is what its config names, as in
    transformers and vLLM: weights may be stored in another. Without one there it is the stored dtype.

    Raise CheckpointError where files or tensors are missing or left over.
    """
    try:
        config = Qwen3OmniMoeConfig.from_pretrained(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: no readable config.json") from error
    speech_config = SpeechConfig.from_config(config)
    files, where = CheckpointFiles(folder), torch.device(device)
    ((_, embedding),) = files.read({_EMBEDDING})
    own = cast(torch.dtype | None, cast(Any, config).dtype) or embedding.dtype
    target = own if dtype == "auto" else cast(torch.dtype, getattr(torch, dtype))
    with torch.device("meta"):
        talker = Qwen3OmniMoeTalkerForConditionalGeneration(cast(Any, config).talker_config)
        code2wav = Qwen3OmniMoeCode2Wav(cast(Any, config).code2wav_config)
    text_embedding = torch.empty(embedding.shape, dtype=target, device=where).copy_(embedding)
    for module, prefix in ((talker, "talker."), (code2wav, "code2wav.")):
        fill(module, files, prefix, target, where)
        module.eval().requires_grad_(False)
    return SpeechModels(speech_config, talker, code2wav, text_embedding)
