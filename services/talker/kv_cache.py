"""The talker's keys and values: pages of a fixed pool, given to a stream for its whole life when it joins.

A stream gets all the pages that its prompt and its longest speech can need, or none and waits: what was begun never
runs out of memory. Page 0 belongs to nobody: rows that only fill up a batch write there.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from services.talker.lanes import to_device

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
        shape = (layers, (pages + 1) * PAGE_ROWS, 2, kv_heads, head_size)
        # [layers, rows of all pages, keys and values, kv heads, head size]
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
        self._table[slot, : len(pages)] = to_device(pages, self._table.device)

    def places(self, slots: Tensor, indices: Tensor) -> Tensor:
        """Where rows number `indices` of `slots` lie in the pool; shapes broadcast."""
        return self._table[slots, indices // PAGE_ROWS] * PAGE_ROWS + indices % PAGE_ROWS

    def table(self, slots: Tensor, pages: int) -> Tensor:
        """Each slot's first pages: [slots, pages]."""
        return self._table[slots, :pages]


def load(rows: Tensor, table: Tensor) -> Tensor:
    """One layer's rows, as they lie in the pool, in the order of table [batch, pages]: [batch, pages * PAGE_ROWS, 2,
    kv heads, head size]."""
    pages = rows.unflatten(0, (-1, PAGE_ROWS)).index_select(0, table.reshape(-1))
    return pages.view(len(table), -1, *rows.shape[1:])
