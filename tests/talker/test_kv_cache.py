"""Blocks of the talker's KV cache."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from services.talker.kv_cache import BLOCK_SIZE, BlockPool, KvCache, blocks_for, gather_kv


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (BLOCK_SIZE, 1), (BLOCK_SIZE + 1, 2)])
def test_blocks_hold_their_tokens(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens) == blocks


@given(st.lists(st.integers(1, 12), max_size=30))
def test_no_block_has_two_owners_and_none_is_lost(wanted: list[int]) -> None:
    pool = BlockPool(20)
    held: list[list[int]] = []
    for count in wanted:
        free = pool.num_free
        blocks = pool.allocate(count)
        if blocks is None:
            assert count > free
            if held:
                pool.free(held.pop(0))
            continue
        held.append(blocks)
    owned = [block for blocks in held for block in blocks]
    assert len(set(owned)) == len(owned)
    assert 0 not in owned
    assert len(owned) + pool.num_free == 20


def test_tokens_come_back_in_order_from_blocks_in_any_order() -> None:
    cache = KvCache(2, 1, 3, num_blocks=5, slots=2, blocks_per_slot=4, dtype=torch.float32, device=torch.device("cpu"))
    cache.assign(1, [5, 2, 3])
    cache.assign(2, [1, 4])
    tokens = torch.randn(2 * BLOCK_SIZE + 7, 2, 1, 3)
    at = torch.arange(len(tokens))
    cache.kv[1, cache.token_locations(torch.ones_like(at), at)] = tokens
    cache.kv[1, cache.token_locations(torch.tensor([2]), torch.tensor([0]))] = 1
    loaded = gather_kv(cache.kv[1], cache.block_tables(torch.tensor([2, 1]), 3))
    assert torch.equal(loaded[1, : len(tokens)], tokens)
    assert torch.equal(loaded[0, 0], torch.ones(2, 1, 3))
