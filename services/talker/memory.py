"""How many streams a talker holds: what its memory budget leaves, counted before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.code2wav.decoder import CodecDecoder
from services.talker.cuda_graphs import BATCHES, BLOCK_BUCKETS, rounded_up
from services.talker.kv_cache import BLOCK_SIZE, blocks_for

# A stream of ordinary length: so many prompt rows beside its longest speech. A longer one takes more pages and waits
# for them; it does not take another's.
ORDINARY_PROMPT_TOKENS = 512
MAX_SLOTS = 512
CPU_SLOTS = 8
CPU_BUDGET_BYTES = 1 << 30
# Frames of one stream that the codec takes in one call, where delivered ones are taken in again.
CODEC_FRAMES_AT_ONCE = 8
# Of a GPU, for CUDA graphs and libraries.
WORKSPACE_BYTES = 768 << 20
# Of a GPU, for each stream of its largest step, what that works in beside the rows that the talker looks at: at the
# released sizes 2.4 GB for 512, measured on an H100, while the codec's CUDA stream shared its memory with the talker's.
# The codec's part was the larger; what the talker and its predictor work in is under 1 MB a stream by their shapes.
_STEP_BYTES = 6_000_000
# Tensors of the size of a full step's noise on a GPU: of each size of batch, which together are two of the largest, it
# is kept as it is made, and as the draws are given it with few candidates and with many.
_NOISE_TENSORS = 6


class DoesNotFitError(Exception):
    """The memory holds not even one stream; the message has the numbers."""


@dataclass(frozen=True)
class MemoryPlan:
    """slots streams over a pool of pages. state_bytes_per_slot: what a slot takes beside its pages; step_bytes: what
    the largest step works in, if it looks at no more than step_blocks pages of its streams at once (0 = any number)."""

    slots: int
    num_blocks: int
    block_bytes: int
    state_bytes_per_slot: int
    step_bytes: int
    step_blocks: int

    @property
    def bytes(self) -> int:
        return (self.num_blocks + 1) * self.block_bytes + (self.slots + 1) * self.state_bytes_per_slot + self.step_bytes


def budget_bytes(models: SpeechModels, *, kv_cache_memory_bytes: int = 0, memory_fraction: float = 0.9) -> int:
    """What streams may take: as the operator says; else what the weights leave of the GPU's share, 1 GiB on a CPU."""
    if kv_cache_memory_bytes:
        return kv_cache_memory_bytes
    if models.device.type != "cuda":
        return CPU_BUDGET_BYTES
    free, total = torch.cuda.mem_get_info(models.device)
    return int(total * memory_fraction) - (total - free) - WORKSPACE_BYTES


def plan_memory(
    models: SpeechModels, budget: int, *, slots: int = 0, max_frames: int = 4095, batch_invariant: bool = False
) -> MemoryPlan:
    """Slots and pages for `budget` bytes. slots: at most so many; 0 = as many as fit (on a CPU, at most 8).

    Raises DoesNotFitError.
    """
    config = models.config
    block_bytes = BLOCK_SIZE * kv_bytes_per_token(models)
    rows, longest = min(ORDINARY_PROMPT_TOKENS + max_frames, config.max_positions), blocks_for(config.max_positions)
    pages, kept = blocks_for(rows), state_bytes_per_slot(models)
    fixed = block_bytes + kept  # page 0 and slot 0
    # Batch-invariant steps look at as many rows of every stream as of the longest that there may be.
    looked_at = rounded_up(longest if batch_invariant else pages, BLOCK_BUCKETS, longest)
    step = step_bytes_per_stream(models, looked_at)

    def bytes_of(count: int) -> int:
        return fixed + count * (pages * block_bytes + kept) + step_bytes(count)

    def step_bytes(count: int) -> int:
        return step * rounded_up(count, BATCHES, BATCHES[-1])

    if bytes_of(1) > budget:
        raise DoesNotFitError(
            f"a stream of {rows} rows takes {bytes_of(1) / 1e6:.0f} MB, "
            f"but {max(budget, 0) / 1e6:.0f} MB are left for streams: give it more memory or lower max_frames"
        )
    count = slots or (MAX_SLOTS if models.device.type == "cuda" else CPU_SLOTS)
    while bytes_of(count) > budget:
        count -= 1
    # Longer streams than ordinary ones have what is left, up to the longest that the talker knows.
    room = (budget - fixed - count * kept - step_bytes(count)) // block_bytes
    step_blocks = looked_at * rounded_up(count, BATCHES, BATCHES[-1]) if models.device.type == "cuda" else 0
    return MemoryPlan(count, min(room, max(count * pages, longest)), block_bytes, kept, step_bytes(count), step_blocks)


def kv_bytes_per_token(models: SpeechModels) -> int:
    """Keys and values of one row of one stream."""
    config = models.talker.config.text_config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * models.text_embedding.element_size()


def state_bytes_per_slot(models: SpeechModels) -> int:
    """One stream's state in the codec, and its part of the predictor's cache, of the sampler and, on a CPU, of the
    noise."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    codec = CodecDecoder(models.code2wav, slots=0, frames_at_once=CODEC_FRAMES_AT_ONCE).state_bytes
    head_size = getattr(predictor, "head_dim", None) or predictor.hidden_size // predictor.num_attention_heads
    row = 2 * predictor.num_hidden_layers * predictor.num_key_value_heads * head_size
    element = models.text_embedding.element_size()
    noise = 0 if models.device.type == "cuda" else _noise_bytes(models)
    return codec + element * (models.config.codebooks * row + talker.hidden_size) + talker.vocab_size + noise


def step_bytes_per_stream(models: SpeechModels, pages: int) -> int:
    """What a stream's part of a step works in on a GPU, where graphs keep it, if `pages` of it are looked at: a copy of
    one layer's keys and values, the noise, and the rest. Nothing on a CPU, which gives it back."""
    if models.device.type != "cuda":
        return 0
    layers = models.talker.config.text_config.num_hidden_layers
    return (
        pages * BLOCK_SIZE * kv_bytes_per_token(models) // layers + _NOISE_TENSORS * _noise_bytes(models) + _STEP_BYTES
    )


def _noise_bytes(models: SpeechModels) -> int:
    """A frame's noise for one stream."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    return 4 * (talker.vocab_size + (models.config.codebooks - 1) * predictor.vocab_size)
