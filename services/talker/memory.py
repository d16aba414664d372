"""How many streams a talker holds: what its memory budget leaves, counted before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from services.talker.checkpoint import SpeechModels
from services.talker.code2wav.decoder import CodecDecoder
from services.talker.kv_cache import PAGE_ROWS, pages_for

# A stream of ordinary length: so many prompt rows beside its longest speech. A longer one takes more pages and waits
# for them; it does not take another's.
ORDINARY_PROMPT_ROWS = 512
MOST_SLOTS = 512
CPU_SLOTS = 8
CPU_BUDGET_BYTES = 1 << 30
# Frames of one stream that the codec takes in one call, where delivered ones are taken in again.
CODEC_FRAMES_AT_ONCE = 8
# Of a GPU, for CUDA graphs and libraries.
WORKSPACE_BYTES = 768 << 20
# Of a GPU, for each slot, what a step works in: 2.4 GB for 512 at the released sizes, measured on an H100.
_STEP_BYTES = 5_000_000
# Tensors of the size of a full step's noise on a GPU: of each size of batch, which together are two of the largest, it
# is kept as it is made, and as the draws are given it with few candidates and with many.
_NOISE_TENSORS = 6


class DoesNotFitError(Exception):
    """The memory holds not even one stream; the message has the numbers."""


@dataclass(frozen=True)
class MemoryPlan:
    """slots streams over a pool of pages. kept_bytes_per_slot: what a slot takes beside its pages."""

    slots: int
    pages: int
    page_bytes: int
    kept_bytes_per_slot: int

    @property
    def bytes(self) -> int:
        return (self.pages + 1) * self.page_bytes + (self.slots + 1) * self.kept_bytes_per_slot


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
    page_bytes = PAGE_ROWS * kv_bytes_per_row(models)
    rows = min(ORDINARY_PROMPT_ROWS + max_frames, config.max_positions)
    pages, kept = pages_for(rows), kept_bytes_per_slot(models)
    fixed = page_bytes + kept  # page 0 and slot 0
    fits = (budget - fixed) // (pages * page_bytes + kept)
    if fits < 1:
        raise DoesNotFitError(
            f"a stream of {rows} rows takes {(pages * page_bytes + kept + fixed) / 1e6:.0f} MB, "
            f"but {max(budget, 0) / 1e6:.0f} MB are left for streams: give it more memory or lower max_frames"
        )
    wanted = slots or (MOST_SLOTS if models.device.type == "cuda" else CPU_SLOTS)
    count = min(fits, wanted)
    # Longer streams than ordinary ones have what is left, up to the longest that the talker knows.
    room = (budget - fixed - count * kept) // page_bytes
    return MemoryPlan(count, min(room, max(count * pages, pages_for(config.max_positions))), page_bytes, kept)


def kv_bytes_per_row(models: SpeechModels) -> int:
    """Keys and values of one row of one stream."""
    config = models.talker.config.text_config
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * config.num_key_value_heads * head_size * models.text_embedding.element_size()


def kept_bytes_per_slot(models: SpeechModels) -> int:
    """One stream's state in the codec, and its part of the predictor's cache, of the sampler, of the noise and of what
    a step works in."""
    talker, predictor = models.talker.config.text_config, models.talker.config.code_predictor_config
    codec = CodecDecoder(models.code2wav, slots=0, frames_at_once=CODEC_FRAMES_AT_ONCE).kept_bytes
    head_size = getattr(predictor, "head_dim", None) or predictor.hidden_size // predictor.num_attention_heads
    row = 2 * predictor.num_hidden_layers * predictor.num_key_value_heads * head_size
    residuals = models.config.codebooks - 1
    element = models.text_embedding.element_size()
    noise = (
        4
        * (_NOISE_TENSORS if models.device.type == "cuda" else 1)
        * (talker.vocab_size + residuals * predictor.vocab_size)
    )
    step = _STEP_BYTES if models.device.type == "cuda" else 0
    return codec + element * ((residuals + 1) * row + talker.hidden_size) + talker.vocab_size + noise + step
