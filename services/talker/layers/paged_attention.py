"""Decode attention over the paged KV cache, in place: Triton kernels for a GPU. Nothing is copied out of the blocks.

Split-KV, as in FlashDecoding: the tokens of one stream are divided among several programs, so that one long stream does
not keep a whole step waiting. Each program returns the attention over its tokens with the log of its sum of
exponentials (LSE); a second kernel combines them. A stream's splits depend on its own length and on the batch size
alone, so the result does not depend on the other streams of a batch of that size.

Lengths and blocks are read on the device: one CUDA graph serves streams of all lengths.
"""

# triton has no type stubs, and a CPU's environment has no triton.
# pyright: reportMissingImports=false, reportMissingParameterType=false, reportUntypedFunctionDecorator=false
# pyright: reportIndexIssue=false
# ruff: noqa: N803 - compile-time constants are upper case, as in triton's own kernels

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from services.talker.kv_cache import BLOCK_SIZE

TILE = BLOCK_SIZE
"""Tokens that a program loads at once: they lie side by side."""
_MIN_SPLIT = 2 * TILE
"""A program takes at least so many tokens: fewer cost less than another program."""
_MIN_SPLITS, _MAX_SPLITS = 8, 64
_PROGRAMS = 256
"""Programs that fill a GPU: about two for each multiprocessor of an A100 or H100."""


def num_splits(batch: int, kv_heads: int) -> int:
    """Return among how many programs a stream's tokens are divided, at most, in a batch of so many streams."""
    return min(max(_PROGRAMS // (batch * kv_heads), _MIN_SPLITS), _MAX_SPLITS)


def paged_attention(queries: Tensor, kv: Tensor, block_tables: Tensor, slots: Tensor, lengths: Tensor) -> Tensor:
    """Attend with one query of each stream to all its tokens: [batch, heads, head size] → the same shape.

    kv: one layer's cache [tokens of the pool, 2, kv heads, head size], in blocks of TILE tokens; block_tables int64
    [all slots, blocks]; slots and lengths int64 [batch]: each stream's slot, and its tokens, the query's included.
    """
    batch, heads, head_size = queries.shape
    kv_heads = kv.shape[2]
    splits = num_splits(batch, kv_heads)
    partial = queries.new_empty(batch, heads, splits, head_size, dtype=torch.float32)
    lse = queries.new_empty(batch, heads, splits, dtype=torch.float32)
    output = queries.new_empty(queries.shape)
    attend_split[(batch, kv_heads, splits)](
        queries,
        kv,
        block_tables,
        slots,
        lengths,
        partial,
        lse,
        head_size**-0.5,
        queries.stride(0),
        queries.stride(1),
        block_tables.stride(0),
        TOKEN_STRIDE=kv.stride(0),
        VALUE_OFFSET=kv.stride(1),
        KV_HEAD_STRIDE=kv.stride(2),
        GROUP=heads // kv_heads,
        GROUP_PADDED=max(16, triton.next_power_of_2(heads // kv_heads)),
        HEAD=head_size,
        HEAD_PADDED=max(16, triton.next_power_of_2(head_size)),
        SPLITS=splits,
        MIN_SPLIT=_MIN_SPLIT,
        TILE=TILE,
        num_warps=4,
        num_stages=2,
    )
    combine_splits[(batch, heads)](
        partial,
        lse,
        lengths,
        output,
        HEAD=head_size,
        HEAD_PADDED=max(16, triton.next_power_of_2(head_size)),
        SPLITS=splits,
        SPLITS_PADDED=triton.next_power_of_2(splits),
        MIN_SPLIT=_MIN_SPLIT,
        TILE=TILE,
        num_warps=2,
    )
    return output


@triton.jit
def _split_length(length, SPLITS: tl.constexpr, MIN_SPLIT: tl.constexpr, TILE: tl.constexpr):
    """Tokens of each split but the last: whole tiles."""
    return tl.maximum(tl.cdiv(tl.cdiv(length, SPLITS), TILE) * TILE, MIN_SPLIT)


@triton.jit
def attend_split(
    queries,
    kv,
    block_tables,
    slots,
    lengths,
    partial,
    lse,
    scale,
    query_stride,
    query_head_stride,
    table_stride,
    TOKEN_STRIDE: tl.constexpr,
    VALUE_OFFSET: tl.constexpr,
    KV_HEAD_STRIDE: tl.constexpr,
    GROUP: tl.constexpr,
    GROUP_PADDED: tl.constexpr,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    TILE: tl.constexpr,
):
    """One stream, one key head with the queries that share it, one split of the tokens."""
    stream, kv_head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    length = tl.load(lengths + stream)
    split_length = _split_length(length, SPLITS, MIN_SPLIT, TILE)
    begin = split * split_length
    if begin >= length:
        return
    end = tl.minimum(begin + split_length, length)
    group = tl.arange(0, GROUP_PADDED)
    channel = tl.arange(0, HEAD_PADDED)
    in_group, in_head = group < GROUP, channel < HEAD
    head = kv_head * GROUP + group
    query = tl.load(
        queries + stream * query_stride + head[:, None] * query_head_stride + channel[None, :],
        mask=in_group[:, None] & in_head[None, :],
        other=0.0,
    )
    table = block_tables + tl.load(slots + stream) * table_stride
    best = tl.full([GROUP_PADDED], -float("inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    acc = tl.zeros([GROUP_PADDED, HEAD_PADDED], tl.float32)
    in_tile = tl.arange(0, TILE)
    for start in tl.range(begin, end, TILE):
        # A tile is a block of the cache: tokens that lie side by side. int64, as a pool can have over 2³¹ elements.
        block = tl.load(table + start // TILE).to(tl.int64)
        is_token = start + in_tile < end
        tokens = kv + (block * TILE + in_tile) * TOKEN_STRIDE + kv_head * KV_HEAD_STRIDE
        keys = tl.load(tokens[None, :] + channel[:, None], mask=is_token[None, :] & in_head[:, None], other=0.0)
        scores = tl.dot(query, keys, input_precision="ieee") * scale
        scores = tl.where(is_token[None, :], scores, -float("inf"))
        higher = tl.maximum(best, tl.max(scores, 1))
        shares = tl.exp(scores - higher[:, None])
        rescale = tl.exp(best - higher)
        values = tl.load(
            tokens[:, None] + VALUE_OFFSET + channel[None, :], mask=is_token[:, None] & in_head[None, :], other=0.0
        )
        acc = acc * rescale[:, None] + tl.dot(shares.to(values.dtype), values, input_precision="ieee")
        total = total * rescale + tl.sum(shares, 1)
        best = higher
    at = (stream * tl.num_programs(1) * GROUP + head) * SPLITS + split
    tl.store(
        partial + at[:, None] * HEAD + channel[None, :],
        acc / total[:, None],
        mask=in_group[:, None] & in_head[None, :],
    )
    tl.store(lse + at, best + tl.log(total), mask=in_group)


@triton.jit
def combine_splits(
    partial,
    lse,
    lengths,
    output,
    HEAD: tl.constexpr,
    HEAD_PADDED: tl.constexpr,
    SPLITS: tl.constexpr,
    SPLITS_PADDED: tl.constexpr,
    MIN_SPLIT: tl.constexpr,
    TILE: tl.constexpr,
):
    """One stream and head: the mean of its splits' outputs, weighed by their sums of exponentials."""
    stream, head = tl.program_id(0), tl.program_id(1)
    length = tl.load(lengths + stream)
    split_length = _split_length(length, SPLITS, MIN_SPLIT, TILE)
    split = tl.arange(0, SPLITS_PADDED)
    is_used = (split < SPLITS) & (split * split_length < length)
    at = (stream * tl.num_programs(1) + head) * SPLITS + split
    weights = tl.load(lse + at, mask=is_used, other=-float("inf"))
    weights = tl.exp(weights - tl.max(weights, 0))
    channel = tl.arange(0, HEAD_PADDED)
    outputs = tl.load(
        partial + at[:, None] * HEAD + channel[None, :], mask=is_used[:, None] & (channel < HEAD)[None, :], other=0.0
    )
    combined = tl.sum(outputs * weights[:, None], 0) / tl.sum(weights, 0)
    at_head = (stream * tl.num_programs(1) + head) * HEAD
    tl.store(output + at_head + channel, combined.to(output.dtype.element_ty), mask=channel < HEAD)
