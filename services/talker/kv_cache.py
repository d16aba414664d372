"""The talker's paged KV cache: blocks of a fixed pool. Block 0 is scratch: the padding of a batch writes there."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.common.talker_memory import BLOCK_SIZE as BLOCK_SIZE
from services.common.talker_memory import blocks_for as blocks_for
from services.talker.cuda_stream import to_device


class BlockPool:
    """The free list of blocks 1 to num_blocks."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks, 0, -1))

    @property
    def num_free(self) -> int:
        return len(self._free)

    def allocate(self, count: int) -> list[int] | None:
        """Return `count` blocks, or None if fewer are free."""
        if count > len(self._free):
            return None
        return [self._free.pop() for _ in range(count)]

    def free(self, blocks: Sequence[int]) -> None:
        self._free.extend(blocks)


class KvCache:
    """Keys and values of all layers, and each slot's block table."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_size: int,
        *,
        num_blocks: int,
        slots: int,
        blocks_per_slot: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """num_blocks and slots do not count block 0 and slot 0, which are scratch."""
        shape = (layers, (num_blocks + 1) * BLOCK_SIZE, 2, kv_heads, head_size)
        # [layers, tokens of all blocks, keys and values, kv heads, head size]
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self._block_tables = torch.zeros(slots + 1, blocks_per_slot, dtype=torch.int64, device=device)

    @property
    def state(self) -> list[Tensor]:
        """All tensors that change."""
        return [self.kv, self._block_tables]

    @property
    def max_blocks_per_slot(self) -> int:
        return self._block_tables.shape[1]

    @property
    def tables(self) -> Tensor:
        """All slots' block tables: int64 [slots, blocks]."""
        return self._block_tables

    def assign(self, slot: int, blocks: Sequence[int]) -> None:
        """Set the slot's block table, in the order of its tokens."""
        self._block_tables[slot, : len(blocks)] = to_device(blocks, self._block_tables.device)

    def grow(self, entries: Sequence[tuple[int, int, int]]) -> None:
        """Set single entries of block tables: (slot, index in its table, block)."""
        slots, indices, blocks = to_device(entries, self._block_tables.device, torch.int64).unbind(1)
        self._block_tables.index_put_((slots, indices), blocks)

    def offload(self, blocks: Sequence[int]) -> Tensor:
        """Copy blocks to the host's memory, in order with the current stream's work: [layers, blocks, BLOCK_SIZE, 2, kv
        heads, head size]."""
        pool = self.kv.unflatten(1, (-1, BLOCK_SIZE))
        shape = (len(pool), len(blocks), *pool.shape[2:])
        on_host = torch.empty(shape, dtype=pool.dtype, pin_memory=pool.device.type == "cuda")
        indices = to_device(blocks, pool.device)
        for target, layer in zip(on_host.unbind(), pool.unbind(), strict=True):  # so that no more is copied on a GPU
            target.copy_(layer.index_select(0, indices), non_blocking=True)
        return on_host

    def restore(self, blocks: Sequence[int], on_host: Tensor) -> None:
        """Copy what `offload` returned into so many other blocks."""
        indices = to_device(blocks, self.kv.device)
        for layer, source in zip(self.kv.unflatten(1, (-1, BLOCK_SIZE)).unbind(), on_host.unbind(), strict=True):
            layer.index_copy_(0, indices, source.to(layer.device, non_blocking=True))

    def token_locations(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Return where in the pool token number `indices` of each slot lies; shapes broadcast."""
        return self._block_tables[slots, indices // BLOCK_SIZE] * BLOCK_SIZE + indices % BLOCK_SIZE

    def block_tables(self, slots: Tensor, count: int) -> Tensor:
        """Return each slot's first blocks: [slots, count]."""
        return self._block_tables[slots, :count]


def gather_kv(kv: Tensor, block_tables: Tensor) -> Tensor:
    """Copy one layer's keys and values [tokens of the pool, 2, kv heads, head size] in the order of block_tables
    [batch, blocks] → [batch, blocks * BLOCK_SIZE, 2, kv heads, head size]."""
    blocks = kv.unflatten(0, (-1, BLOCK_SIZE)).index_select(0, block_tables.reshape(-1))
    return blocks.view(len(block_tables), -1, *kv.shape[1:])
