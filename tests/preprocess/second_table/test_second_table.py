"""A second table of files that people send: what is seen and heard at places in each, and how others are refused."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.common.errors import BadInput
from services.preprocess.decoding.jobs import Decoded, Job, JobKind
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.sampling import VideoOptions
from tests.preprocess.rig import Conversation, Rig, refused
from tests.preprocess.second_table.films import SEEN
from tests.preprocess.second_table.pictures import SHOWN
from tests.preprocess.second_table.refusals import REFUSED
from tests.preprocess.second_table.rows import Heard, Refused, Seen, Shown
from tests.preprocess.second_table.sounds import HEARD
from tests.preprocess.test_files.films import corner_of, number_of

pytestmark = pytest.mark.asyncio(loop_scope="module")
FIELDS = {"image": "image_url.url", "audio": "input_audio.data", "video": "video_url.url"}
# Samples around an impulse that a codec or a resampler spreads it over.
_SPREAD = 60
# How far a film's sound may be from its place: its timestamps are whole milliseconds.
_ROUNDING = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncGenerator[DecodePool]:
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=60) as pool:
        await pool.start()
        yield pool


async def decoded(pool: DecodePool, kind: JobKind, file: bytes, fps: float | None = None, **more: Any) -> Decoded:
    return await pool.decode(Job(kind, (file,), MediaLimits(), VideoOptions(factor=32, fps=fps), **more))


@pytest.mark.parametrize("row", SHOWN, ids=lambda row: row.name)
async def test_a_picture_shows_its_colours_at_their_places(pool: DecodePool, row: Shown):
    pixels = (await decoded(pool, "image", row.make())).array
    assert pixels.shape == (*row.size, 3)
    for place, colour in row.places.items():
        assert np.abs(pixels[place].astype(np.int16) - colour).max() <= row.within, (place, pixels[place])


@pytest.mark.parametrize("row", HEARD, ids=lambda row: row.name)
async def test_a_sound_has_its_length_and_its_impulse(pool: DecodePool, row: Heard):
    sound = np.abs((await decoded(pool, "audio", row.make())).array)
    assert abs(sound.size - row.samples) <= row.within
    highest = float(sound.max())
    assert highest >= row.height
    assert abs(int(sound.argmax()) - row.click) <= row.near
    sound[max(row.click - row.near - _SPREAD, 0) : row.click + row.near + _SPREAD] = 0
    assert sound.max() <= highest / 2


@pytest.mark.parametrize("row", SEEN, ids=lambda row: row.name)
async def test_a_film_shows_its_frames_and_its_sound_is_in_time(pool: DecodePool, row: Seen):
    film = await decoded(pool, "video", row.make(), row.fps, with_sound=row.click is not None)
    frames = film.frames.read(0, len(film.frames))
    assert tuple(map(number_of, frames)) == row.frames
    assert corner_of(frames[0], 0, 0) == row.turned
    assert (film.sound is None) == (row.click is None)
    if film.sound is not None and row.click is not None:
        assert abs(int(np.abs(film.sound).argmax()) - row.click) <= _ROUNDING


@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.name)
async def test_a_file_that_is_not_taken_is_refused_with_its_field_and_words(rig: Rig, row: Refused):
    talk = Conversation()
    talk.turn("user", "what is this?", getattr(talk, row.kind)(row.make()))
    preparer = rig.preparer()
    error = await refused(preparer, talk)
    assert isinstance(error, BadInput)
    assert error.param == f"messages[0].content[1].{FIELDS[row.kind]}"
    assert row.words in error.message
    assert rig.store_of(preparer).held_requests == 0


async def test_the_table_is_long():
    assert len(SHOWN) + len(HEARD) + len(SEEN) + len(REFUSED) >= 180
