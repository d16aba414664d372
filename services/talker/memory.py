"""How many streams a talker holds: what its part of the memory leaves, counted before anything is allocated.

The arithmetic is services/common/talker_memory.py's and gpu_memory.py's; here are the costs of the loaded models.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import torch

from services.common.gpu_memory import DoesNotFitError, GpuMemory, cache_bytes
from services.common.kv_cache import kv_values_per_token
from services.common.talker_memory import (
    BLOCK_SIZE,
    MAX_FRAMES,
    MAX_SLOTS,
    WORKSPACE_BYTES,
    StreamCosts,
    padded_batch,
    plan_streams,
)
from services.talker.checkpoint import SpeechModels
from services.talker.code2wav.decoder import CodecDecoder

__all__ = ["DoesNotFitError", "MemoryPlan", "budget_bytes", "plan_memory"]

CPU_SLOTS = 8
CPU_BUDGET_BYTES = 1 << 30
CODEC_FRAMES_AT_ONCE = 8
"""Frames of one stream that the codec takes in one call when it takes in delivered frames again."""
_STEP_BYTES = 6_000_000
"""Of a GPU, for each stream of its largest step, beside the keys and values that it reads: at the released sizes 2.4 GB
for 512, measured on an H100 while the codec's CUDA stream shared its memory with the talker's. The codec's part was the
larger; by their shapes, talker and predictor work in under 1 MB a stream."""


@dataclass(frozen=True)
class MemoryPlan:
    """Slots over a pool of blocks. state_bytes_per_slot: what a slot takes beside its blocks. step_bytes: what the
    largest step works in, however long its streams are: it reads their blocks in place."""

    slots: int
    num_blocks: int
    block_bytes: int
    state_bytes_per_slot: int
    step_bytes: int

    @property
    def bytes(self) -> int:
        return (self.num_blocks + 1) * self.block_bytes + (self.slots + 1) * self.state_bytes_per_slot + self.step_bytes


def budget_bytes(models: SpeechModels, *, kv_cache_memory_bytes: int = 0, memory_fraction: float = 0.9) -> int:
    """Return what streams may take: what the operator says, else what the weights leave of the process's part of the
    GPU, else 1 GiB on a CPU. Raise DoesNotFitError where that part of the GPU is not free."""
    if kv_cache_memory_bytes:
        return kv_cache_memory_bytes
    if models.device.type != "cuda":
        return CPU_BUDGET_BYTES
    return cache_bytes(measured_memory(models.device), memory_fraction, WORKSPACE_BYTES)


def measured_memory(device: torch.device) -> GpuMemory:
    """Return the GPU's memory as it is, once torch has given back what it only caches."""
    gc.collect()
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    reserved = torch.cuda.memory_reserved(device)
    return GpuMemory(total, used_by_others=total - free - reserved, reserved=reserved)


def plan_memory(models: SpeechModels, budget: int, *, slots: int = 0, max_frames: int = MAX_FRAMES) -> MemoryPlan:
    """Return the slots and blocks that `budget` bytes hold. slots: at most so many; 0 = as many as fit (on a CPU, at
    most 8). Raise DoesNotFitError where not even one fits."""
    max_tokens, on_gpu = models.config.max_positions, models.device.type == "cuda"
    costs = stream_costs(models)
    plan = plan_streams(
        costs,
        budget,
        max_slots=slots or (MAX_SLOTS if on_gpu else CPU_SLOTS),
        max_frames=max_frames,
        max_tokens=max_tokens,
    )
    step_bytes = padded_batch(plan.slots) * costs.step
    return MemoryPlan(plan.slots, plan.num_blocks, costs.block, costs.state, step_bytes)


def stream_costs(models: SpeechModels) -> StreamCosts:
    """Return what streams of these models take. A step's part is 0 on a CPU, which gives it back."""
    step = _STEP_BYTES if models.device.type == "cuda" else 0
    return StreamCosts(BLOCK_SIZE * kv_bytes_per_token(models), state_bytes_per_slot(models), step)


def kv_bytes_per_token(models: SpeechModels) -> int:
    """Return the size of one token's keys and values."""
    return kv_values_per_token(models.talker.config.text_config.to_dict()) * models.text_embedding.element_size()


def state_bytes_per_slot(models: SpeechModels) -> int:
    """Return what one slot keeps between steps: the codec's state, its part of the predictor's cache and of the
    sampler, and on a CPU its part of the noise."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    codec = CodecDecoder(models.code2wav, slots=0, frames_at_once=CODEC_FRAMES_AT_ONCE).state_bytes
    kv = kv_values_per_token(predictor.to_dict())
    element = models.text_embedding.element_size()
    noise = 0 if models.device.type == "cuda" else _noise_bytes(models)
    return codec + element * (models.config.codebooks * kv + talker.hidden_size) + talker.vocab_size + noise


def _noise_bytes(models: SpeechModels) -> int:
    """Return the size of a frame's noise for one stream on a CPU. A GPU computes it in the draws."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    return 4 * (talker.vocab_size + (models.config.codebooks - 1) * predictor.vocab_size)
