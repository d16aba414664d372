"""Every file that people send: each row is decoded by a real decoder, and gives what its plain sibling gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.preprocess.decoding.jobs import Decoded, Job, JobKind
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.sampling import VideoOptions
from tests.preprocess.test_files.films import FILMS, corner_of, number_of
from tests.preprocess.test_files.pictures import PICTURES
from tests.preprocess.test_files.rows import Film, Picture, Samples, Sound, tokens_of
from tests.preprocess.test_files.sounds import SOUNDS

pytestmark = pytest.mark.asyncio(loop_scope="module")
# A container's timestamps are whole milliseconds: so far a sound may be from its place.
_ROUNDING = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncGenerator[DecodePool]:
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=60) as pool:
        await pool.start()
        yield pool


async def decoded(pool: DecodePool, kind: JobKind, file: bytes, **more: Any) -> Decoded:
    return await pool.decode(Job(kind, (file,), MediaLimits(), VideoOptions(factor=32), **more))


def alike(heard: Samples, expected: Samples, late: int) -> float:
    """Return the correlation of the two, where `heard` begins `late` samples later."""
    heard, expected = heard[max(late, 0) :], expected[max(-late, 0) :]
    length = min(heard.size, expected.size)
    return float(np.corrcoef(heard[:length], expected[:length])[0, 1])


@pytest.mark.parametrize("row", PICTURES, ids=lambda row: row.name)
async def test_a_picture_is_seen_as_a_browser_shows_it(pool: DecodePool, row: Picture):
    seen, expected = (await decoded(pool, "image", row.make())).array, row.shows()
    assert seen.shape == expected.shape
    assert np.abs(seen.astype(np.int16) - expected).max() <= row.within


@pytest.mark.parametrize("row", SOUNDS, ids=lambda row: row.name)
async def test_a_sound_is_heard_whole_and_at_its_place(pool: DecodePool, row: Sound):
    heard, expected = (await decoded(pool, "audio", row.make())).array, row.plays()
    assert abs(heard.size - expected.size) <= row.within
    assert abs(tokens_of(heard.size) - tokens_of(expected.size)) <= (row.within + 1279) // 1280
    assert alike(heard, expected, row.late) >= row.alike


@pytest.mark.parametrize("row", FILMS, ids=lambda row: row.name)
async def test_a_film_is_seen_by_its_timestamps_and_headers(pool: DecodePool, row: Film):
    film = await decoded(pool, "video", row.make(), with_sound=row.heard)
    seen = film.frames.read(0, len(film.frames))
    assert tuple(map(number_of, seen)) == row.frames
    assert corner_of(seen[0], 0, 0) == row.turned
    assert (seen.shape[3] > seen.shape[2]) == row.upright
    assert (film.sound is not None) == (row.plays is not None)
    if film.sound is not None and row.plays is not None:
        expected = row.plays()
        assert abs(film.sound.size - expected.size) <= row.within
        assert max(alike(film.sound, expected, late) for late in range(-_ROUNDING, _ROUNDING)) > 0.97


async def test_the_table_is_long():
    assert len(PICTURES) + len(SOUNDS) + len(FILMS) >= 150
