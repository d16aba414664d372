"""Long recordings in pieces: the samples of the file decoded at once, whatever its format, cut where it is quiet."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import aclosing
from dataclasses import replace

import numpy as np
import pytest
import pytest_asyncio
from hypothesis import given, settings
from hypothesis import strategies as st

from services.common.errors import BadInput, TooLarge
from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import audio_pieces, decode_audio
from services.preprocess.media.pieces import cut_at_silence
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.samples import SAMPLE_RATE, Samples
from services.preprocess.memory import divide
from services.preprocess.recordings import Recordings
from tests.fixtures.wait import wait_until
from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file

LIMITS = MediaLimits()
PIECE_S = 5.0


def talk(seconds: float, rate: int = SAMPLE_RATE, channels: int = 1) -> Samples:
    """Return sounds of 1.7 s with pauses of half a second between them."""
    sound = tone(seconds, rate, channels)
    for begin in range(0, len(sound), round(2.2 * rate)):
        sound[begin + round(1.7 * rate) : begin + round(2.2 * rate)] *= 1e-3
    return sound


FILES = {
    "wav": lambda: sound_file(talk(17), 16_000, "wav"),
    "flac, 44.1 kHz, stereo": lambda: sound_file(talk(17, 44_100, 2), 44_100, "flac"),
    "ogg": lambda: sound_file(talk(17, 48_000), 48_000, "ogg"),
    "mp3": lambda: sound_file(talk(17, 24_000), 24_000, "mp3"),
    "m4a": lambda: sound_file(talk(17, 44_100), 44_100, "m4a"),
    "a film": lambda: video_file(sound=talk(17, 48_000)),
    "one piece": lambda: sound_file(talk(3), 16_000, "wav"),
}


@pytest.mark.parametrize("name", FILES)
def test_pieces_are_the_samples_of_the_whole_file(name: str) -> None:
    data = FILES[name]()
    pieces = list(audio_pieces(data, LIMITS, PIECE_S))
    np.testing.assert_array_equal(np.concatenate(pieces), decode_audio(data, LIMITS))
    assert len(pieces) == (1 if name == "one piece" else len(pieces))
    assert all(piece.size <= PIECE_S * SAMPLE_RATE for piece in pieces)


def test_the_cuts_are_in_the_pauses() -> None:
    pieces = list(audio_pieces(FILES["wav"](), LIMITS, PIECE_S))
    assert len(pieces) > 3
    for piece in pieces[:-1]:
        assert np.abs(piece[-SAMPLE_RATE // 10 :]).max() < 0.01


def split(sound: Samples, sizes: Iterable[int]) -> list[Samples]:
    return np.split(sound, np.cumsum(list(sizes)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 40 * SAMPLE_RATE),
    st.lists(st.integers(0, 9 * SAMPLE_RATE), max_size=6),
    st.integers(5 * SAMPLE_RATE, 20 * SAMPLE_RATE),
    st.integers(0, 2**32 - 1),
)
def test_the_cuts_depend_on_the_samples_alone(size: int, sizes: list[int], most: int, seed: int) -> None:
    sound = np.random.default_rng(seed).standard_normal(size + 201).astype(np.float32)
    pieces = list(cut_at_silence([sound], most))
    again = list(cut_at_silence(split(sound, sizes), most))
    assert [piece.size for piece in pieces] == [piece.size for piece in again]
    np.testing.assert_array_equal(np.concatenate(pieces), sound)
    assert all(piece.size <= most for piece in pieces)
    assert all(piece.size >= min(most // 2, SAMPLE_RATE) for piece in pieces[:-1])
    assert len(pieces) == 1 or pieces[-1].size >= SAMPLE_RATE


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (lambda: image_file(photograph(), "png"), "image, not audio"),
        (lambda: video_file(), "no sound track"),
        (lambda: b"nothing that is known" * 9, "no known audio or video format"),
        (lambda: sound_file(talk(17, 44_100), 44_100, "flac")[:-9000], "broken"),
        (lambda: sound_file(tone(0.01), 16_000, "wav"), "10 ms long"),
    ],
)
def test_what_is_no_recording_is_refused(data: Callable[[], bytes], said: str) -> None:
    with pytest.raises(MediaProblem, match=said):
        list(audio_pieces(data(), LIMITS, PIECE_S))


def test_a_recording_over_the_limit_is_refused() -> None:
    with pytest.raises(MediaProblem, match="longer than 4 s"):
        list(audio_pieces(FILES["wav"](), replace(LIMITS, recording_s=4), PIECE_S))


@pytest_asyncio.fixture
async def pool() -> AsyncGenerator[DecodePool]:
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=60) as pool:
        await pool.start()
        yield pool


async def test_a_decoder_hands_out_one_piece_at_a_time(pool: DecodePool) -> None:
    data = FILES["flac, 44.1 kHz, stereo"]()
    job = Job("recording", (data,), LIMITS, tenant="t", owner="t/r", piece_s=PIECE_S)
    async with aclosing(pool.cut(job)) as coming:
        pieces = [piece async for piece in coming]
    np.testing.assert_array_equal(np.concatenate([piece.samples for piece in pieces]), decode_audio(data, LIMITS))
    assert {piece.recording_s for piece in pieces} == {17}
    # Whoever wants no more ends the decoder, and the next one finds a place.
    async with aclosing(pool.cut(job)) as coming:
        await anext(coming)
    assert (await pool.decode(Job("audio", (FILES["one piece"](),), LIMITS))).array.size == 3 * SAMPLE_RATE


async def test_a_recordings_memory_is_given_back(pool: DecodePool) -> None:
    budgets = divide(1 << 30)
    recordings = Recordings(pool, replace(LIMITS, item_bytes=1 << 20), budgets, decode_cpu_s=60)
    async with recordings.receive("t", "file") as recording:
        await recording.add(FILES["wav"]())
        pieces = recordings.pieces(recording, tenant="t", request_id="r", param="file", piece_s=PIECE_S)
        async with aclosing(pieces):
            await anext(pieces)
            assert budgets.files.holds
        with pytest.raises(TooLarge) as too_large:
            await recording.add(bytes(1 << 20))
    assert too_large.value.param == "file"
    async with recordings.receive("t", "file") as empty:
        with pytest.raises(BadInput) as caught:
            await anext(recordings.pieces(empty, tenant="t", request_id="r", param="file", piece_s=PIECE_S))
    assert caught.value.code == "empty_media"
    await wait_until(lambda: not (budgets.files.holds or budgets.small.holds or budgets.large.holds))


@pytest.mark.parametrize("limits", [{"audio_s": 6.0}, {"item_tokens": 2 * 13 * 6}])
async def test_no_piece_is_longer_than_a_prompt_takes(pool: DecodePool, limits: dict[str, float]) -> None:
    recordings = Recordings(pool, replace(LIMITS, **limits), divide(1 << 30), decode_cpu_s=60)
    async with recordings.receive("t", "file") as recording:
        await recording.add(FILES["wav"]())
        coming = recordings.pieces(recording, tenant="t", request_id="r", param="file", piece_s=120.0)
        async with aclosing(coming):
            sizes = [piece.samples.size async for piece in coming]
    assert len(sizes) > 1
    assert max(sizes) <= 6 * SAMPLE_RATE
