"""The talker's keys and values: pages of a fixed pool, given to a stream for its whole life when it joins.

A stream gets all the pages that its prompt and its longest speech can need, or none and waits: what was begun never
runs out of memory. Page 0 belongs to nobody: rows that only fill up a batch write there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

PAGE_ROWS = 64


def pages_for(rows: int) -> int:
    """Pages that hold so many rows."""
    return -(-rows // PAGE_ROWS)


class PagePool:
    """Which pages are free. `pages` counts all but page 0."""

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self._free = list(range(pages, 0, -1))

    @property
    def free(self) -> int:
        return len(self._free)

    def take(self, count: int) -> list[int] | None:
        """None where there are too few."""
        if count > len(self._free):
            return None
        return [self._free.pop() for _ in range(count)]

    def give_back(self, pages: Sequence[int]) -> None:
        self._free.extend(pages)


class KvCache:
    """Keys and values of all layers, and each slot's page table."""

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_size: int,
        *,
        pages: int,
        slots: int,
        pages_a_slot: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """slots and pages without the ones numbered 0, which are scratch."""
        shape = (layers, 2, (pages + 1) * PAGE_ROWS, kv_heads, head_size)
        # [layers, keys and values, rows of all pages, kv heads, head size]
        self.rows = torch.zeros(shape, dtype=dtype, device=device)
        self._table = torch.zeros(slots + 1, pages_a_slot, dtype=torch.int64, device=device)

    @property
    def kept(self) -> list[Tensor]:
        """All that changes."""
        return [self.rows, self._table]

    @property
    def pages_of_a_slot(self) -> int:
        """The most that one slot can have."""
        return self._table.shape[1]

    def assign(self, slot: int, pages: Sequence[int]) -> None:
        """The pages that hold the slot's rows, in order."""
        self._table[slot, : len(pages)] = torch.tensor(pages, device=self._table.device)

    def places(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Where rows number `indices` of `slots` lie in the pool; shapes broadcast."""
        return self._table[slots, indices // PAGE_ROWS] * PAGE_ROWS + indices % PAGE_ROWS

    def store(self, layer: int, places: Tensor, keys: Tensor, values: Tensor) -> None:
        """keys and values [rows, kv heads, head size] to places [rows]."""
        self.rows[layer, 0].index_copy_(0, places, keys)
        self.rows[layer, 1].index_copy_(0, places, values)

    def table(self, slots: Tensor, pages: int) -> Tensor:
        """Each slot's first pages: [slots, pages]."""
        return self._table[slots, :pages]

    def load(self, layer: int, table: Tensor) -> tuple[Tensor, Tensor]:
        """All rows of table [batch, pages]: keys and values, each [batch, pages * PAGE_ROWS, kv heads, head size]."""
        batch, pages = table.shape
        flat = table.reshape(-1)
        shape = (batch, pages * PAGE_ROWS, *self.rows.shape[3:])
        keys, values = self.rows[layer].unflatten(1, (-1, PAGE_ROWS)).unbind()
        return keys.index_select(0, flat).view(shape), values.index_select(0, flat).view(shape)
