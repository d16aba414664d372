"""Random weights that behave: answers vary and end by themselves, speech can be heard."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import GenerationConfig, Qwen3OmniMoeConfig, Qwen3OmniMoeForConditionalGeneration

from services.local.checkpoint.kinds import Kind
from services.local.checkpoint.tokenizer import ORDINARY_TOKENS, TokenIds

HEAD_GAIN = 3.0
"""Spreads the logits, so that greedy and sampled answers differ and rounding decides no token."""

END_GAINS = {
    Kind.INSTRUCT: {"<|im_end|>": 2.3},
    Kind.THINKING: {"<|im_end|>": 1.9, "</think>": 2.2},
    Kind.CAPTIONER: {"<|im_end|>": 2.3},
}
"""How much longer an end token's row is than an ordinary one: after a few tens of tokens it wins."""

SPOKEN_TEXT_GAIN = 8.0
"""Makes the text heard beside the sum of sixteen codes' embeddings that the talker's input is."""

END_OF_SPEECH_GAIN = 1.6
"""Length of the end token's row, which points to where the padding after the text is: speech ends with its text."""

WAVEFORM_GAIN = 0.0015
"""Brings code2wav's last convolution to the loudness of speech."""


def write_weights(folder: Path, kind: Kind, config: Qwen3OmniMoeConfig, ids: TokenIds, seed: int) -> None:
    """Writes model.safetensors (fp32), config.json and generation_config.json.

    Each tensor is drawn by numpy from the seed and its own name: neither torch's generator nor the order or the
    number of threads changes a byte.
    """
    with torch.random.fork_rng(devices=[]):  # construction draws from torch's own generator
        model: Any = Qwen3OmniMoeForConditionalGeneration(config).float().eval()
    with torch.no_grad():
        for name, parameter, module in _parameters(model):
            parameter.copy_(_draw(name, parameter, module, seed))
        _shape_text_head(model.thinker.lm_head.weight, kind, ids)
        if kind.speaks:
            _shape_talker(model, ids)
            model.code2wav.decoder[-1].conv.weight.mul_(WAVEFORM_GAIN)
    model.generation_config = generation_config(kind, ids)
    model.save_pretrained(folder)


def _parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    for prefix, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{prefix}.{name}", parameter, module


def _draw(name: str, parameter: Tensor, module: nn.Module, seed: int) -> Tensor:
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    noise = generator.standard_normal(parameter.shape).astype(np.float32)
    mean, std = _distribution(name, parameter, module)
    return torch.from_numpy(noise * np.float32(std) + np.float32(mean))


def _distribution(name: str, parameter: Tensor, module: nn.Module) -> tuple[float, float]:
    """Mean and standard deviation; weights keep the variance of what they take in (1 / fan-in)."""
    if isinstance(module, nn.Embedding):
        # Where a patch stands must not drown what it shows.
        return 0.0, 0.1 if "pos_embed" in name else 1.0
    if isinstance(module, nn.ConvTranspose1d) and parameter.ndim > 1:
        return 0.0, (module.in_channels * module.kernel_size[0] / module.stride[0]) ** -0.5
    if parameter.ndim >= 2:
        # Experts are stacked: (expert, out, in). Convolutions are (out, in, kernel…).
        fan_in = (
            parameter.shape[1:].numel()
            if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
            else parameter.shape[-1]
        )
        return 0.0, fan_in**-0.5
    match name.rpartition(".")[2]:
        case "weight":  # a norm's
            return 1.0, 0.1
        case "scale" | "gamma":  # how much a layer adds to its residual
            return 0.5, 0.1
        case _:  # biases, and the logarithms of the snake activations' frequency and amplitude
            return 0.0, 0.02


def _shape_text_head(weight: Tensor, kind: Kind, ids: TokenIds) -> None:
    weight.mul_(HEAD_GAIN)
    ends = {ids[text]: weight[ids[text]] * gain for text, gain in END_GAINS[kind].items()}
    # A logit of 0 is far below the best of 2048: no media pad and no unused row comes up in an answer.
    weight[ORDINARY_TOKENS:] = 0.0
    for row, values in ends.items():
        weight[row] = values


def _shape_talker(model: Any, ids: TokenIds) -> None:
    projection = model.talker.text_projection
    for parameter in projection.linear_fc2.parameters():
        parameter.mul_(SPOKEN_TEXT_GAIN)
    padding = model.thinker.model.embed_tokens.weight[ids["<tts_pad>"]]
    # Double and rounded: not a bit may hang on the machine's order of summation.
    inner = nn.functional.silu(_linear(padding.double(), projection.linear_fc1))
    direction = nn.functional.normalize(_linear(inner, projection.linear_fc2), dim=0).mul(4096).round().div(4096)
    codec_head = model.talker.codec_head.weight.mul_(HEAD_GAIN)
    codec_head[model.config.talker_config.codec_eos_token_id] = direction.float() * END_OF_SPEECH_GAIN


def _linear(values: Tensor, layer: nn.Linear) -> Tensor:
    return nn.functional.linear(values, layer.weight.double(), layer.bias.double())


def generation_config(kind: Kind, ids: TokenIds) -> GenerationConfig:
    """Return the settings that answers of this kind are sampled with."""
    ends = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]}
    if kind is Kind.THINKING:
        return GenerationConfig(do_sample=True, temperature=0.6, top_p=0.95, top_k=20, **ends)
    return GenerationConfig(do_sample=False, **ends)
