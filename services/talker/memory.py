"""How many streams a talker holds: what its memory budget leaves, counted before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.code2wav.decoder import CodecDecoder
from services.talker.cuda_graphs import BATCHES, rounded_up
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


class DoesNotFitError(Exception):
    """The memory holds not even one stream; the message has the numbers."""


@dataclass(frozen=True)
class MemoryPlan:
    """Slots over a pool of KV cache blocks; block 0 and slot 0 are scratch and not counted.

    state_bytes_per_slot: a slot's state besides its blocks; step_bytes: the working memory of the largest step.
    """

    slots: int
    num_blocks: int
    block_bytes: int
    state_bytes_per_slot: int
    step_bytes: int

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


def plan_memory(models: SpeechModels, budget: int, *, slots: int = 0, max_frames: int = 4095) -> MemoryPlan:
    """Slots and pages for `budget` bytes. slots: at most so many; 0 = as many as fit (on a CPU, at most 8).

    Raises DoesNotFitError.
    """
    config = models.config
    block_bytes = BLOCK_SIZE * kv_bytes_per_token(models)
    rows, longest = min(ORDINARY_PROMPT_TOKENS + max_frames, config.max_positions), blocks_for(config.max_positions)
    pages, kept = blocks_for(rows), state_bytes_per_slot(models)
    fixed = block_bytes + kept  # page 0 and slot 0
    step = step_bytes_per_stream(models)

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
    return MemoryPlan(count, min(room, max(count * pages, longest)), block_bytes, kept, step_bytes(count))


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


def step_bytes_per_stream(models: SpeechModels) -> int:
    """Return a stream's part of a step's working memory on a GPU, where graphs keep it. Zero on a CPU, which frees it
    after each step."""
    return _STEP_BYTES if models.device.type == "cuda" else 0


def _noise_bytes(models: SpeechModels) -> int:
    """Return the bytes of a frame's noise for one stream, on a CPU; a GPU computes it where it is used."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    return 4 * (talker.vocab_size + (models.config.codebooks - 1) * predictor.vocab_size)
