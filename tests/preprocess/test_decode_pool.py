"""The decoder processes: their results, and jobs that crash or block a process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.common.errors import Unavailable
from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import decode_video
from tests.fixtures.processes import has_ended
from tests.fixtures.wait import wait_until
from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMITS = MediaLimits()
OPTIONS = VideoOptions(factor=32)


def job(kind: Any, *files: bytes, limits: MediaLimits = LIMITS, **more: Any) -> Job:
    return Job(kind, files, limits, OPTIONS, **more)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncGenerator[DecodePool]:
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=20) as pool:
        await pool.start()
        yield pool


async def test_results_equal_those_of_the_decoding_functions(pool: DecodePool):
    image, sound = image_file(photograph(), "png"), sound_file(tone(1.0, 44_100, 2), 44_100, "flac")
    film = video_file(sound=tone(4.0, 48_000))
    assert np.array_equal((await pool.decode(job("image", image))).main, decode_image(image, LIMITS))
    assert np.array_equal((await pool.decode(job("audio", sound))).main, decode_audio(sound, LIMITS))
    expected = decode_video(film, OPTIONS, LIMITS, with_sound=True)
    seen = await pool.decode(job("video", film, with_sound=True))
    assert seen.sound is not None
    assert expected.sound is not None
    assert np.array_equal(seen.main, expected.frames)
    assert np.array_equal(seen.sound, expected.sound)
    assert seen.fps == expected.fps
    frames = await pool.decode(job("frames", image, image, image))
    assert frames.main.shape[0] == 4


async def test_a_broken_file_fails_alone_and_the_process_lives(pool: DecodePool):
    before = pool.process_ids
    for data in (b"", b"\x89PNG\r\n\x1a\nbroken"):
        with pytest.raises(MediaProblem) as caught:
            await pool.decode(job("image", data))
        assert caught.value.code == "invalid_media"
    assert pool.process_ids == before


@pytest.mark.parametrize(
    ("signal_number", "error"),
    [(signal.SIGKILL, Unavailable), (signal.SIGSEGV, MediaProblem), (signal.SIGABRT, MediaProblem)],
)
async def test_a_decoder_that_dies_fails_only_its_own_job(
    pool: DecodePool, signal_number: signal.Signals, error: type[Exception]
):
    await pool.start()
    (pid,) = pool.process_ids
    os.kill(pid, signal.SIGSTOP)
    photo = image_file(photograph(), "png")
    dying, *waiting = [asyncio.create_task(pool.decode(job("image", photo))) for _ in range(4)]
    await asyncio.sleep(0)  # the first job runs on the decoder, and the others wait
    os.kill(pid, signal_number)
    os.kill(pid, signal.SIGCONT)
    with pytest.raises(error):
        await dying
    for task in waiting:
        assert np.array_equal((await task).main, photograph())
    assert pid not in pool.process_ids
    assert len(pool.process_ids) == 1


async def test_killing_an_idle_decoder_fails_no_job(pool: DecodePool):
    await pool.start()
    (pid,) = pool.process_ids
    os.kill(pid, signal.SIGKILL)
    await wait_until(lambda: has_ended(pid))
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).main.size
    assert pid not in pool.process_ids


async def test_a_killed_fork_server_is_replaced(pool: DecodePool):
    await pool.start()
    assert pool.fork_server_id is not None
    (decoder,) = pool.process_ids
    os.kill(pool.fork_server_id, signal.SIGKILL)
    await wait_until(lambda: has_ended(decoder))
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).main.size


async def test_the_kernel_ends_a_job_over_its_cpu_time(pool: DecodePool):
    before = pool.process_ids
    long = sound_file(np.zeros((3_000_000, 1), np.float32), 767_999, "wav")
    with pytest.raises(MediaProblem, match=r"more than 0.01 s of processor time"):
        await pool.decode(job("audio", long, cpu_s=0.01, limits=replace(LIMITS, audio_s=1e6)))
    assert pool.process_ids != before


async def test_a_cancelled_job_ends_its_process_at_once(pool: DecodePool):
    await pool.start()  # again, after the death before
    (pid,) = pool.process_ids
    os.kill(pid, signal.SIGSTOP)
    work = asyncio.create_task(pool.decode(job("image", image_file(photograph(), "png"))))
    await asyncio.sleep(0)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    await wait_until(lambda: pid not in pool.process_ids)
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).main.size


async def test_a_decoder_that_takes_too_long_is_killed():
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=0.3) as impatient:
        await impatient.start()
        (pid,) = impatient.process_ids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MediaProblem, match=r"longer than 0.3 s"):
            await impatient.decode(job("image", image_file(photograph(), "png")))
        assert pid not in impatient.process_ids


async def test_a_job_that_needs_too_much_memory_is_refused_and_the_process_lives():
    async with DecodePool(1, memory_bytes=96 << 20, timeout_s=20) as small:
        await small.start()
        before = small.process_ids
        blank = image_file(np.zeros((7000, 7000, 3), np.uint8), "png")
        with pytest.raises(MediaProblem) as caught:
            await small.decode(job("image", blank))
        assert caught.value.code in ("media_too_large", "invalid_media")
        assert (await small.decode(job("image", image_file(photograph(), "png")))).main.shape == photograph().shape
        assert small.process_ids == before


async def test_no_process_outlives_the_pool():
    async with DecodePool(2, memory_bytes=1 << 30, timeout_s=20) as pool:
        await pool.start()
        ids = pool.process_ids
        assert len(set(ids)) == 2
    for pid in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
