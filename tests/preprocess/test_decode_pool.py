"""The decoder processes: their results, and jobs that crash or block a process."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
from PIL import Image

from services.common.errors import Fault, Unavailable
from services.preprocess.decoding import price, processes
from services.preprocess.decoding.isolation.layers import ALL
from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.decoding.processes import ForkServer, Patience
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.media.images import decode_image
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.sampling import VideoOptions
from services.preprocess.media.video import decode_video
from tests.fixtures.processes import descendants, has_ended
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file

pytestmark = pytest.mark.asyncio(loop_scope="module")
LIMITS = MediaLimits()
OPTIONS = VideoOptions(factor=32)
IMAGE_MODES = {
    "png": ("RGB", "RGBA", "P", "L", "I;16"),
    "jpeg": ("RGB", "L", "CMYK"),
    "webp": ("RGB", "RGBA"),
    "gif": ("RGB", "P", "L"),
    "bmp": ("RGB", "L"),
    "tiff": ("RGB", "CMYK", "LAB", "I;16"),
    "avif": ("RGB", "RGBA"),
}


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


@pytest.mark.parametrize(
    ("kind", "mode"),
    [(kind, mode) for kind, modes in IMAGE_MODES.items() for mode in modes],
)
async def test_a_confined_decoder_reads_each_image_format(pool: DecodePool, kind: str, mode: str):
    image = Image.fromarray(photograph()).convert("L" if mode in ("I;16", "LAB") else mode)
    image = image.convert("I;16") if mode == "I;16" else Image.merge("LAB", [image] * 3) if mode == "LAB" else image
    out = BytesIO()
    image.save(out, kind.upper(), exif=Image.Exif())
    decoded = await pool.decode(job("image", out.getvalue()))
    assert np.array_equal(decoded.main, decode_image(out.getvalue(), LIMITS))


@pytest.mark.parametrize("kind", ["wav", "wav-float", "flac", "mp3", "ogg", "opus", "m4a", "webm"])
async def test_a_confined_decoder_reads_each_sound_format(pool: DecodePool, kind: str):
    rate = 48_000 if kind in ("opus", "webm") else 44_100
    sound = sound_file(tone(0.5, rate, 2), rate, kind)
    assert np.array_equal((await pool.decode(job("audio", sound))).main, decode_audio(sound, LIMITS))


@pytest.mark.parametrize("kind", ["mp4", "mkv", "webm", "mpeg4"])
async def test_a_confined_decoder_reads_each_film_format(pool: DecodePool, kind: str):
    film = video_file(kind=kind, sound=tone(4.0, 48_000))
    expected = decode_video(film, OPTIONS, LIMITS, with_sound=True)
    seen = await pool.decode(job("video", film, with_sound=True))
    assert np.array_equal(seen.main, expected.frames)
    assert seen.sound is not None
    assert expected.sound is not None
    assert np.array_equal(seen.sound, expected.sound)


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
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).array.size
    assert pid not in pool.process_ids


async def test_only_decoders_of_films_carry_torch(pool: DecodePool):
    def has_torch() -> list[bool]:
        return ["libtorch" in Path(f"/proc/{pid}/maps").read_text() for pid in pool.process_ids]

    await pool.start()
    assert has_torch() == [False]
    decoding = asyncio.create_task(pool.decode(job("video", video_file(frames=240), owner="one")))
    await wait_until(lambda: has_torch() == [True])
    assert (await decoding).main is not None
    await pool.start()
    assert has_torch() == [False]


async def test_a_killed_fork_server_is_replaced(pool: DecodePool):
    await pool.start()
    assert pool.fork_server_id is not None
    (decoder,) = pool.process_ids
    os.kill(pool.fork_server_id, signal.SIGKILL)
    await wait_until(lambda: has_ended(decoder))
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).array.size


async def test_a_fork_server_that_hangs_or_has_lost_a_part_is_replaced(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch
):
    """In a namespace of its own it is two processes: the second one forks the decoders."""
    photo = job("image", image_file(photograph(), "png"))

    async def decodes() -> bool:
        try:
            return bool((await pool.decode(photo)).array.size)
        except (Fault, Unavailable):  # on a busy machine the next one may take longer, too
            return False

    for parts_are_killed in (False, True):
        await pool.start()
        outer, parts = pool.fork_server_id, descendants(pool.fork_server_id or 0)
        assert outer is not None
        for pid in (outer, *parts):
            os.kill(pid, signal.SIGSTOP)
        for pid in parts:
            os.kill(pid, signal.SIGKILL if parts_are_killed else signal.SIGSTOP)
        await wait_until(lambda: not parts_are_killed or all(has_ended(pid) for pid in parts))  # noqa: B023
        with monkeypatch.context() as hasty:
            if not parts_are_killed:
                hasty.setattr(pool, "_patience", Patience(timeout_s=20, hang_after_s=0.3))
                with pytest.raises(Unavailable):  # its decoder, made before, is stopped too
                    await pool.decode(photo)
            hasty.setattr(pool, "_patience", Patience(timeout_s=HANGS_AFTER_S, hang_after_s=HANGS_AFTER_S))
            hasty.setattr(processes, "ANSWER_TIMEOUT_S", 2.0)
            await wait_until(decodes)
        assert pool.fork_server_id != outer


@pytest.mark.parametrize(
    ("most_s", "said"),
    [(60.0, r"far more work than its headers say: over 0\.01 s"), (0.01, r"more than 0\.01 s of processor time")],
)
async def test_the_kernel_ends_a_job_over_its_price(
    pool: DecodePool, monkeypatch: pytest.MonkeyPatch, most_s: float, said: str
):
    await pool.start()
    before = pool.process_ids
    monkeypatch.setattr(price, "SAMPLES_PER_S", 1e12)  # as if the headers promised less
    monkeypatch.setattr(price, "FLOOR_S", 0.01)
    long = sound_file(np.zeros((3_000_000, 1), np.float32), 767_999, "wav")
    with pytest.raises(MediaProblem, match=said) as caught:
        await pool.decode(job("audio", long, cpu_s=most_s))
    assert caught.value.code == "media_too_large"
    await pool.start()
    assert pool.process_ids != before


async def test_a_job_is_refused_by_its_headers_where_it_costs_too_much(pool: DecodePool):
    blank = image_file(np.zeros((7000, 7000, 3), np.uint8), "png")
    with pytest.raises(MediaProblem, match=r"would take 0\.327 s of processor time or more, and 0\.3 s are allowed"):
        await pool.decode(job("image", blank, cpu_s=0.3))


async def test_frames_of_a_film_are_bounded_by_their_headers(pool: DecodePool):
    frame = image_file(np.zeros((3000, 3000, 3), np.uint8), "png")
    with pytest.raises(MediaProblem, match=r"frames have 9000000 pixels. Send at most 8294400"):
        await pool.decode(job("frames", *[frame] * 4))


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
    assert (await pool.decode(job("image", image_file(photograph(), "png")))).array.size


async def test_a_decoder_that_takes_too_long_is_killed():
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=0.3) as impatient:
        await impatient.start()
        (pid,) = impatient.process_ids
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(MediaProblem, match=r"longer than 0.3 s"):
            await impatient.decode(job("image", image_file(photograph(), "png")))
        assert pid not in impatient.process_ids


async def test_a_decoder_that_hangs_is_replaced_and_the_file_is_not_blamed():
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=60, hang_after_s=0.5) as pool:
        await pool.start()
        (pid,) = pool.process_ids
        os.kill(pid, signal.SIGSTOP)
        photo = job("image", image_file(photograph(), "png"))
        with pytest.raises(Unavailable):  # the gateway then has it prepared elsewhere
            await pool.decode(photo)
        assert pid not in pool.process_ids
        # On a busy machine one that works may get no processor time for so long, too.
        pool._patience = Patience(timeout_s=HANGS_AFTER_S, hang_after_s=HANGS_AFTER_S)  # pyright: ignore[reportPrivateUsage]
        assert (await pool.decode(photo)).array.size


async def test_the_processor_time_of_a_decoder_at_work_grows():
    """So it is no hang."""
    server = ForkServer(1 << 30, ALL, films=False)
    try:
        server.wait_ready()
        decoder = server.fork()
        before, patience = decoder.cpu_ticks, Patience(timeout_s=60, hang_after_s=60)
        large = job("image", image_file(np.zeros((5000, 5000, 3), np.uint8), "png"))
        work = decoder.look(large, patience)
        decoder.decode(large, work, 60.0, 0, patience)
        assert decoder.cpu_ticks > before
        decoder.close()
    finally:
        server.close()


async def test_a_job_that_needs_too_much_memory_is_refused_by_its_headers():
    async with DecodePool(1, memory_bytes=96 << 20, timeout_s=20) as small:
        await small.start()
        blank = image_file(np.zeros((7000, 7000, 3), np.uint8), "png")
        with pytest.raises(MediaProblem, match=r"MiB of memory, and 96 MiB are allowed") as caught:
            await small.decode(job("image", blank))
        assert caught.value.code == "media_too_large"
        assert (await small.decode(job("image", image_file(photograph(), "png")))).main.shape == photograph().shape


async def test_no_process_outlives_the_pool():
    async with DecodePool(2, memory_bytes=1 << 30, timeout_s=20) as pool:
        await pool.start()
        ids = pool.process_ids
        assert len(set(ids)) == 2
    for pid in ids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


async def test_a_film_that_waits_for_another_holds_up_no_picture():
    film = job("frames", *[image_file(np.zeros((2000, 2000, 3), np.uint8), "png")] * 32, tenant="a", owner="a/1")
    other = replace(film, owner="a/2")
    picture = job("image", image_file(photograph(), "png"), tenant="b", owner="b/1")
    async with DecodePool(2, memory_bytes=1 << 30, timeout_s=120) as pool:
        await pool.start()
        films = [asyncio.create_task(pool.decode(one)) for one in (film, other)]
        for _ in range(3):
            assert np.array_equal((await pool.decode(picture)).main, photograph())
            assert not films[1].done()
        for task in films:
            task.cancel()
        await asyncio.gather(*films, return_exceptions=True)
