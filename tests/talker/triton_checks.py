"""Checks that test_paged_attention runs in a process with triton: `python -m tests.talker.triton_checks <check>`.

- interpret <folder>: run the kernels in the interpreter (TRITON_INTERPRET=1). Compare them with the CPU's attention,
  and decode with that checkpoint's talker.
- compile: compile the kernels for GPUs, without a GPU.
"""

# pyright: reportMissingImports=false
from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import triton
from torch import Tensor, nn
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from services.talker.checkpoint import load_speech_models
from services.talker.kv_cache import BLOCK_SIZE, KvCache, blocks_for, gather_kv
from services.talker.layers import paged_attention as kernels
from services.talker.layers.attention import SelfAttention, attention_mask
from services.talker.talker_model import TalkerModel

CPU = torch.device("cpu")
NUM_BLOCKS = 80


def teach_bfloat16() -> None:
    """Let the interpreter multiply bfloat16 matrices, which it stores as the upper halves of float32."""
    builder: Any = triton.runtime.interpreter.InterpreterBuilder
    create_dot = builder.create_dot

    def dot(self: Any, a: Any, b: Any, *others: Any) -> Any:
        for side in (a, b):
            if side.dtype.scalar == triton.language.bfloat16 and side.data.dtype == np.uint16:
                side.data = (side.data.astype(np.uint32) << 16).view(np.float32)
        return create_dot(self, a, b, *others)

    builder.create_dot = dot


def attention_of(heads: int, kv_heads: int, head_size: int) -> SelfAttention:
    query, kv = nn.Linear(4, heads * head_size), nn.Linear(4, kv_heads * head_size)
    return SelfAttention(
        SimpleNamespace(head_dim=head_size, q_proj=query, k_proj=kv, v_proj=kv, o_proj=query, q_norm=nn.Identity())
    )


def filled_cache(lengths: list[int], kv_heads: int, head_size: int, dtype: torch.dtype) -> tuple[KvCache, Tensor]:
    """Return a cache with streams in shuffled blocks and slots. Every element outside of them is NaN.
    Slot 0 is the batch's padding, with one token."""
    blocks = max(map(blocks_for, lengths)) + 2
    cache = KvCache(
        1,
        kv_heads,
        head_size,
        num_blocks=NUM_BLOCKS,
        slots=len(lengths),
        blocks_per_slot=blocks,
        dtype=dtype,
        device=CPU,
    )
    slots = torch.cat((torch.randperm(len(lengths)) + 1, torch.tensor([0])))
    cache.kv.fill_(torch.nan)
    cache.tables.fill_(NUM_BLOCKS)
    free = (torch.randperm(NUM_BLOCKS - 1) + 1).tolist()
    for slot, length in zip(slots.tolist(), [*lengths, 1], strict=True):
        cache.assign(slot, [free.pop() for _ in range(blocks_for(length))] if slot else [0])
        at = cache.token_locations(torch.full((length,), slot), torch.arange(length))
        cache.kv[0, at] = torch.randn(length, 2, kv_heads, head_size).to(dtype)
    return cache, slots


def check_attention() -> None:
    teach_bfloat16()
    for dtype, heads, kv_heads, head_size, lengths in [
        (torch.float32, 16, 2, 128, [1, 65, 300]),  # the released talker's
        (torch.bfloat16, 16, 2, 128, [128]),
        (torch.float32, 2, 1, 24, [2100, 64, *[1] * 30]),  # a stream whose splits are longer than the shortest
        (torch.bfloat16, 3, 3, 16, [129, 300]),  # one KV head per query head
    ]:
        torch.manual_seed(0)
        attention = attention_of(heads, kv_heads, head_size)
        cache, slots = filled_cache(lengths, kv_heads, head_size, dtype)
        counts = torch.tensor([*lengths, 1])
        packed = torch.randn(len(counts), heads + 3, head_size).to(dtype)
        queries = packed[:, :heads]  # as in the model: a slice of a larger tensor
        given = kernels.paged_attention(queries, cache.kv[0], cache.tables, slots, counts)
        for index, length in enumerate(counts.tolist()):
            gathered = gather_kv(cache.kv[0].float(), cache.block_tables(slots[index : index + 1], blocks_for(length)))
            mask = attention_mask(torch.ones(1, 1, length, dtype=torch.bool), torch.float32)
            expected = attention.attend(queries[None, index : index + 1].float(), gathered[:, :length], mask)
            tolerance = 2e-6 if dtype == torch.float32 else 2e-2
            torch.testing.assert_close(given[index].float().flatten(), expected.flatten(), atol=tolerance, rtol=0)
        # The result must not depend on the batch or on the place in it.
        order = torch.arange(len(counts) - 1, -1, -1)
        again = kernels.paged_attention(queries[order], cache.kv[0], cache.tables, slots[order], counts[order])
        assert torch.equal(again[order], given)


@torch.inference_mode()
def check_decode(folder: Path) -> None:
    talker = load_speech_models(folder).talker
    torch.manual_seed(0)
    gathered, in_place = TalkerModel(talker), TalkerModel(talker)
    vars(in_place)["_paged_attention"] = kernels.paged_attention
    slots, lengths = torch.tensor([2, 1, 0]), torch.tensor([150, 3, 0])
    embeds = torch.randn(3, int(talker.config.text_config.hidden_size))
    outputs: list[Tensor] = []
    for model, blocks in ((gathered, 3), (in_place, 0)):
        cache = model.new_cache(num_blocks=6, slots=2, blocks_per_slot=4)
        cache.kv.copy_(torch.randn(cache.kv.shape, generator=torch.Generator().manual_seed(1)))
        cache.assign(2, [5, 1, 6])
        cache.assign(1, [3])
        outputs.append(model.decode(cache, embeds, slots, lengths, lengths.float(), blocks=blocks))
        outputs.append(cache.kv)
    for one, other in zip(outputs[:2], outputs[2:], strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)


def check_compile() -> None:
    pointers = {"block_tables": "*i64", "slots": "*i64", "lengths": "*i64", "partial": "*fp32", "lse": "*fp32"}
    head = {"HEAD": 128, "HEAD_PADDED": 128, "SPLITS": 8, "MIN_SPLIT": 128, "TILE": BLOCK_SIZE}
    group = {"GROUP": 8, "GROUP_PADDED": 16, "TOKEN_STRIDE": 512, "VALUE_OFFSET": 256, "KV_HEAD_STRIDE": 128}
    for capability, dtypes in ((80, ["bf16"]), (90, ["bf16", "fp32"])):
        for dtype in dtypes:
            types = {**pointers, **dict.fromkeys(("queries", "kv", "output"), f"*{dtype}"), "scale": "fp32"}
            attend = compiled(kernels.attend_split, types, head | group, capability, num_warps=4, num_stages=2)
            # A thread block gets 48 KB without opting in to more; an A100 has 163 KB, an H100 227 KB.
            assert attend.metadata.shared <= 163 << 10
            if dtype == "bf16":
                assert "mma.sync" in attend.asm["ptx"]
                assert "cp.async" in attend.asm["ptx"]
            combine = compiled(kernels.combine_splits, types, head | {"SPLITS_PADDED": 8}, capability, num_warps=2)
            assert combine.asm["cubin"]


def compiled(kernel: Any, types: dict[str, str], constants: dict[str, int], capability: int, **options: int) -> Any:
    names = [parameter.name for parameter in kernel.params]
    signature = {name: "constexpr" if name in constants else types.get(name, "i32") for name in names}
    # As at a launch: addresses and strides are multiples of 16.
    aligned = [name for name in names if signature[name].startswith("*") or name.endswith("stride")]
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["interpret", folder]:
            check_attention()
            check_decode(Path(folder))
        case ["compile"]:
            check_compile()
        case other:
            raise SystemExit(f"unknown check {other}")
