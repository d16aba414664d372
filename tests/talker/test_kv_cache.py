"""Pages of the talker's cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.talker.kv_cache import PAGE_ROWS, KvCache, PagePool, load, pages_for


@pytest.mark.parametrize(("rows", "pages"), [(0, 0), (1, 1), (PAGE_ROWS, 1), (PAGE_ROWS + 1, 2)])
def test_pages_hold_their_rows(rows: int, pages: int) -> None:
    assert pages_for(rows) == pages


@given(st.lists(st.integers(1, 12), max_size=30))
def test_no_page_has_two_owners_and_none_is_lost(wanted: list[int]) -> None:
    pool = PagePool(20)
    held: list[list[int]] = []
    for count in wanted:
        free = pool.free
        pages = pool.take(count)
        if pages is None:
            assert count > free
            if held:
                pool.give_back(held.pop(0))
            continue
        held.append(pages)
    owned = [page for pages in held for page in pages]
    assert len(set(owned)) == len(owned)
    assert 0 not in owned
    assert len(owned) + pool.free == 20


def test_rows_come_back_in_order_from_pages_in_any_order() -> None:
    cache = KvCache(2, 1, 3, pages=5, slots=2, pages_a_slot=4, dtype=torch.float32, device=torch.device("cpu"))
    cache.assign(1, [5, 2, 3])
    cache.assign(2, [1, 4])
    rows = torch.randn(2 * PAGE_ROWS + 7, 2, 1, 3)
    at = torch.arange(len(rows))
    cache.rows[1, cache.places(torch.ones_like(at), at)] = rows
    cache.rows[1, cache.places(torch.tensor([2]), torch.tensor([0]))] = 1
    loaded = load(cache.rows[1], cache.table(torch.tensor([2, 1]), 3))
    assert torch.equal(loaded[1, : len(rows)], rows)
    assert torch.equal(loaded[0, 0], torch.ones(2, 1, 3))
