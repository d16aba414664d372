import asyncio

import pytest

from services.common.errors import Capacity, Gone
from services.common.tensors.store import BlobStore
from tests.fixtures.wait import HANGS_AFTER_S


def test_a_blob_stays_until_its_turn_ends():
    store = BlobStore(100, keep_released=False)
    store.put("a", b"x" * 10, "turn-1")
    assert store.get("a") == b"x" * 10
    store.release("turn-1")
    with pytest.raises(Gone):
        store.get("a")
    assert store.used_bytes == 0


def test_a_blob_of_two_turns_stays_until_the_second_ends():
    store = BlobStore(100, keep_released=False)
    store.put("a", b"x" * 10, "turn-1")
    store.put("a", b"x" * 10, "turn-2")
    assert store.used_bytes == 10
    store.release("turn-1")
    assert "a" in store
    store.release("turn-2")
    assert "a" not in store


def test_a_released_blob_stays_cached_until_room_is_needed():
    store = BlobStore(100)
    store.put("old", b"x" * 60, "turn-1")
    store.put("new", b"x" * 30, "turn-2")
    store.release("turn-1")
    store.release("turn-2")
    store.get("old")
    store.put("third", b"x" * 60, "turn-3")
    assert "new" not in store, "least recently used goes first"
    assert "old" not in store
    assert store.used_bytes == 60


def test_blobs_of_live_turns_are_never_evicted():
    store = BlobStore(100)
    store.put("a", b"x" * 80, "turn-1")
    with pytest.raises(Capacity):
        store.put("b", b"x" * 30, "turn-2")
    assert store.get("a") == b"x" * 80
    assert store.used_bytes == 80


def test_holding_a_missing_blob_holds_nothing():
    store = BlobStore(100)
    store.put("a", b"x", "turn-1")
    with pytest.raises(Gone):
        store.hold(("a", "b"), "turn-2")
    assert store.held_requests == 1


def test_an_unreleased_turn_expires():
    now = 0.0
    store = BlobStore(100, hold_s=10, keep_released=False, clock=lambda: now)
    store.put("a", b"x" * 80, "turn-1")
    now = 11.0
    store.put("b", b"x" * 80, "turn-2")
    assert "a" not in store
    assert store.held_requests == 1


def test_releasing_an_unknown_turn_is_no_error():
    BlobStore(1).release("never-seen")


async def test_a_drain_waits_until_no_turn_holds_anything():
    store = BlobStore(100)
    await store.wait_released()
    store.put("a", b"x", "turn-1")
    store.put("b", b"x", "turn-2")
    waiting = asyncio.ensure_future(store.wait_released())
    store.release("turn-1")
    await asyncio.sleep(0)
    assert not waiting.done()
    store.release("turn-2")
    await asyncio.wait_for(waiting, HANGS_AFTER_S)
