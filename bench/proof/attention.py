"""Checks that the paged decode kernel is exact on this GPU, and that a paused stream resumes unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own alias
from torch import Tensor

from bench.proof.runner import WrongError
from services.talker.kv_cache import KvCache, blocks_for, gather_kv

HEADS, KV_HEADS, HEAD_SIZE = 16, 2, 128
"""The released talker's."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-2}
"""Of values of about 1: in float32 the kernel must not round its products to TF32."""


def attention(device: torch.device, lengths: Sequence[int], batches: Sequence[int]) -> Mapping[str, Any]:
    """Compare the kernel with float64 attention over gathered blocks, for mixed lengths and shuffled blocks."""
    if device.type != "cuda":
        return {"skipped": "needs a GPU; tests/talker/test_paged_attention.py interprets the kernel"}
    from services.talker.layers.paged_attention import paged_attention  # needs triton

    figures: dict[str, dict[str, float]] = {}
    wrong: list[str] = []
    for dtype, tolerance in TOLERANCE.items():
        figures[str(dtype)] = {}
        for batch in batches:
            counts = [lengths[index % len(lengths)] for index in range(batch)]
            cache = _filled_cache(counts, dtype, device)
            slots = torch.arange(1, batch + 1, device=device)
            queries = torch.randn(batch, HEADS, HEAD_SIZE, device=device).to(dtype)
            ours = paged_attention(queries, cache.kv[0], cache.tables, slots, torch.tensor(counts, device=device))
            apart = max(
                float((ours[index].double() - _exact(cache, slot, count, queries[index])).abs().max())
                for index, (slot, count) in enumerate(zip(slots, counts, strict=True))
            )
            figures[str(dtype)][str(batch)] = apart
            if not apart <= tolerance:  # also fails on NaN
                wrong.append(f"{dtype}, {batch} streams: {apart:g}")
    if wrong:
        raise WrongError(f"the kernel's attention is not exact: {'; '.join(wrong)}", figures)
    return figures


def pausing(device: torch.device) -> Mapping[str, Any]:
    """Move a stream's blocks to the host and back into others, idle and busy: every bit must stay the same."""
    cache = _filled_cache([600, 100], torch.bfloat16, device)
    before = gather_kv(cache.kv[0], cache.block_tables(torch.tensor([1], device=device), blocks_for(600))).clone()
    old = cache.block_tables(torch.tensor([1], device=device), blocks_for(600))[0].tolist()
    other = [block for block in range(1, cache.kv.shape[1] // 64) if block not in old][: len(old)]
    on_host = cache.offload(old)
    cache.kv[0].view(-1, 64, *cache.kv.shape[2:])[old] = torch.nan  # another stream writes there at once
    cache.restore(other, on_host)
    cache.assign(1, other)
    after = gather_kv(cache.kv[0], cache.block_tables(torch.tensor([1], device=device), blocks_for(600)))
    same = torch.equal(before, after)
    if not same:
        raise WrongError("a paused stream did not come back as it was", {"same": same})
    return {"same": same, "blocks": len(old)}


def _filled_cache(counts: Sequence[int], dtype: torch.dtype, device: torch.device) -> KvCache:
    """Return one layer's cache with random keys and values. Its streams lie in shuffled blocks."""
    needed = [blocks_for(count) for count in counts]
    num_blocks = 2 * sum(needed)
    cache = KvCache(
        1,
        KV_HEADS,
        HEAD_SIZE,
        num_blocks=num_blocks,
        slots=len(counts),
        blocks_per_slot=max(needed),
        dtype=dtype,
        device=device,
    )
    cache.kv.normal_()
    free = (torch.randperm(num_blocks) + 1).tolist()
    for slot, blocks in enumerate(needed, start=1):
        cache.assign(slot, [free.pop() for _ in range(blocks)])
    return cache


def _exact(cache: KvCache, slot: Tensor, count: int, query: Tensor) -> Tensor:
    """Return the attention of one query in float64: [heads, head size]."""
    kv = gather_kv(cache.kv[0], cache.block_tables(slot[None], blocks_for(count)))[0, :count].double()
    keys, values = (part.repeat_interleave(HEADS // KV_HEADS, dim=1).transpose(0, 1) for part in kv.unbind(1))
    return F.scaled_dot_product_attention(query[:, None].double(), keys, values)[:, 0]
