"""Trains transformers' code2wav on the codec's codes: `python -m training.speech.train_code2wav`.

The transformer sees whole utterances; of what it gives, short crops become sound, as that part costs nearly all. The
loss compares log spectra over four window lengths. In fp32: bf16 makes this network diverge on CPUs.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.models.qwen3_omni_moe.configuration_qwen3_omni_moe import Qwen3OmniMoeCode2WavConfig
from transformers.models.qwen3_omni_moe.modeling_qwen3_omni_moe import Qwen3OmniMoeCode2Wav

from services.local.checkpoint.architecture import CODEBOOKS, code2wav_config
from training.cache import cache_folder
from training.config import CODEBOOK, FRAME_SAMPLES, SIZES
from training.loop import Losses, Schedule, load, train
from training.options import parse_options, stage_parser
from training.speech.codes import CodedUtterance, read_codes
from training.speech.corpus import make_corpus, read_shard
from training.speech.fit_codec import codes_folder, load_codec
from training.speech.spectra import spectral_loss

SCHEDULE = Schedule(steps=4000, rate=6e-4, betas=(0.8, 0.99), warmup=150, save_every_s=120, say_every=10)
BATCH, CROP_FRAMES = 6, 8
LATE_SAMPLES = 555
"""Samples of the last frame that a decode does not give: each transposed convolution looks one input ahead."""

TRAINING_SHARDS = 12


def checkpoint() -> Path:
    return cache_folder("speech") / "code2wav.pt"


def make_code2wav(codebooks: Tensor | None = None) -> Qwen3OmniMoeCode2Wav:
    """Return an untrained code2wav; codebooks: the codec's, [16, CODEBOOK, LATENT], to begin the embeddings with."""
    torch.manual_seed(0)
    config = Qwen3OmniMoeCode2WavConfig(**code2wav_config(SIZES))
    config._attn_implementation = "sdpa"  # pyright: ignore[reportPrivateUsage]
    model = Qwen3OmniMoeCode2Wav(config).float()
    for module in model.modules():
        if isinstance(module, nn.Conv1d | nn.ConvTranspose1d):
            nn.init.kaiming_uniform_(module.weight, a=5**0.5)
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
    for name, parameter in model.named_parameters():
        if name.endswith("gamma"):  # how much a ConvNeXt block adds: the class begins with next to nothing
            nn.init.constant_(parameter, 0.1)
    if codebooks is not None:
        spread = torch.randn(codebooks.shape[-1], config.hidden_size) * codebooks.shape[-1] ** -0.5
        with torch.no_grad():
            # The mean of 16 embeddings is taken: their sum is to have the size of one.
            table = codebooks.reshape(CODEBOOKS * CODEBOOK, -1) @ spread
            sums = table.view(CODEBOOKS, CODEBOOK, -1).square().mean((1, 2)).sum().sqrt()
            model.code_embedding.weight.copy_(table * CODEBOOKS / sums)
    return model


def decode_crops(model: Any, codes: Tensor, starts: Tensor) -> Tensor:
    """Decode CROP_FRAMES frames of each, from its start: int64 [batch, 16, frames] → [batch, crop · 1920 - 555]."""
    hidden = model.code_embedding(codes + model.code_offset).mean(1)
    hidden = model.pre_transformer(inputs_embeds=hidden).last_hidden_state
    wanted = starts[:, None] + torch.arange(CROP_FRAMES)
    hidden = hidden.gather(1, wanted[..., None].expand(-1, -1, hidden.shape[-1])).transpose(1, 2)
    for blocks in model.upsample:
        for block in blocks:
            hidden = block(hidden)
    for block in model.decoder:
        hidden = block(hidden)
    return hidden[:, 0]


def train_code2wav(
    said: list[tuple[CodedUtterance, np.ndarray]],
    codebooks: Tensor,
    file: Path,
    schedule: Schedule,
    *,
    stop_after: int | None = None,
) -> Qwen3OmniMoeCode2Wav:
    """Train on codes and their sound, int16 [frames · 1920], or go on with it."""
    model = make_code2wav(codebooks)
    long = [pair for pair in said if pair[0].frames >= CROP_FRAMES]

    def losses(step: int) -> Losses:
        rng = random.Random(step)
        chosen = rng.choices(long, k=BATCH)
        frames = max(one.frames for one, _ in chosen)
        codes = torch.zeros(BATCH, CODEBOOKS, frames, dtype=torch.int64)
        starts, wanted = list[int](), list[np.ndarray]()
        for index, (one, sound) in enumerate(chosen):
            codes[index, :, : one.frames] = one.codes.T
            starts.append(rng.randint(0, one.frames - CROP_FRAMES))
            begin = starts[-1] * FRAME_SAMPLES
            wanted.append(sound[begin : begin + CROP_FRAMES * FRAME_SAMPLES])
        heard = decode_crops(model, codes, torch.tensor(starts))
        target = torch.from_numpy(np.stack(wanted)).float() / 32767
        return {"loss": spectral_loss(heard, target[:, : heard.shape[-1]])}

    train("code2wav", file, model, schedule, losses, stop_after=stop_after)
    return model


def load_code2wav() -> Qwen3OmniMoeCode2Wav:
    model = make_code2wav()
    load(checkpoint(), model)
    return model


def main() -> None:
    parse_options(stage_parser(__doc__))
    shards = make_corpus()[:TRAINING_SHARDS]
    codes = [one for shard in shards for one in read_codes(codes_folder() / shard.name)]
    sounds = [one.sound for shard in shards for one in read_shard(shard)]
    train_code2wav(list(zip(codes, sounds, strict=True)), load_codec().code_vectors(), checkpoint(), SCHEDULE)


if __name__ == "__main__":
    main()
