"""The pieces of a recording go through the gateway a chunk at a time: they are on the disk and never in its memory."""

from __future__ import annotations

import tracemalloc
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.common.channels import CHUNK_BYTES
from services.common.errors import Capacity
from services.gateway.recordings.pieces import Pieces
from services.gateway.spill import SpillDisk
from services.gateway.turn.worker_calls import CutSamples

PIECE_CHUNKS = 16


@contextmanager
def few_chunks_in_memory() -> Generator[None]:
    tracemalloc.start()
    try:
        yield
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < PIECE_CHUNKS // 2 * CHUNK_BYTES


async def test_a_piece_is_never_in_memory_as_a_whole(tmp_path: Path) -> None:
    disk = SpillDisk(tmp_path, 1 << 30)
    pieces = Pieces(disk)
    with few_chunks_in_memory():
        for number in range(PIECE_CHUNKS):
            samples = bytes([number]) * CHUNK_BYTES
            await pieces.add(CutSamples(samples, ends_piece=number == PIECE_CHUNKS - 1, recording_s=1.0))
    piece = await pieces.get(0)
    assert piece is not None
    media = piece.media()
    assert not media.in_memory
    at, heads = 0, list[int]()
    with few_chunks_in_memory():
        async for chunk in media.chunks(0, CHUNK_BYTES):
            heads.append(chunk[-1])
            at += len(chunk)
    assert at == media.total_bytes == disk.used_bytes > PIECE_CHUNKS * CHUNK_BYTES
    assert heads == [*range(PIECE_CHUNKS), PIECE_CHUNKS - 1]  # shifted by a header
    await media.close()
    assert disk.used_bytes == 0
    pieces.close()


async def test_an_incomplete_piece_comes_again(tmp_path: Path) -> None:
    disk = SpillDisk(tmp_path, 1 << 20)
    pieces = Pieces(disk)
    await pieces.add(CutSamples(bytes(400), ends_piece=False, recording_s=0))
    pieces.drop_incomplete()
    assert (disk.used_bytes, pieces.samples) == (0, 0)
    await pieces.add(CutSamples(bytes(400), ends_piece=True, recording_s=0))
    assert pieces.samples == 100
    with pytest.raises(Capacity):
        await pieces.add(CutSamples(bytes(1 << 20), ends_piece=True, recording_s=0))
    pieces.close()
    assert disk.used_bytes == 0
