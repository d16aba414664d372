"""Blobs from their owner to who fetches them."""

from __future__ import annotations

import os
import tracemalloc

import pytest
from google.protobuf.message import DecodeError

from antiphon.v1 import common_pb2
from services.common.channels import CHUNK_BYTES
from services.common.errors import Gone
from services.common.tensors.store import BlobStore
from services.common.tensors.transfer import ThinkerBlobs, data_of, fetch_blob, serialized, serve_blob
from tests.common.hosted import hosted


async def test_a_blob_arrives_whole_and_a_released_one_is_gone():
    async with hosted() as (host, owner, channel):
        data = bytes(range(256)) * (CHUNK_BYTES // 64)
        owner.store.put("k", data, "turn")
        stub = ThinkerBlobs(channel)
        ref = common_pb2.BlobRef(owner=host.address, key="k", size_bytes=len(data))
        assert await fetch_blob(stub, ref, peer="thinker", timeout_s=10) == data
        owner.store.release("turn")
        with pytest.raises(Gone):
            await fetch_blob(stub, common_pb2.BlobRef(key="other", size_bytes=1), peer="thinker", timeout_s=10)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 300_000, CHUNK_BYTES])
def test_chunks_are_protobuf_messages(size: int):
    data = os.urandom(size)
    message = common_pb2.FetchResponse(data=data).SerializeToString()
    if size:
        assert serialized(memoryview(data)) == message
    assert data_of(message) == data
    later = message + b"\x10\x01"  # with a field of a later version
    assert data_of(later) == data
    with pytest.raises(DecodeError):
        data_of(message + b"\x0a\x05abc")


async def test_a_blob_is_copied_once_on_its_owners_side_and_not_out_of_its_message():
    """A protobuf message would hold each chunk three times here and once more there."""
    store, size = BlobStore(1 << 30), 8 * CHUNK_BYTES
    store.put("k", bytes(size), "turn")
    tracemalloc.start()
    try:
        sent = [message async for message in serve_blob(store, common_pb2.FetchRequest(key="k"))]
        served, served_peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        received = [data_of(message) for message in sent]
        _, received_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sum(map(len, received)) == size
    assert size <= served <= served_peak < 1.05 * size
    assert received_peak - served < 0.05 * size
