"""Preprocess near the limits of its own process. Its caches hold no file handles and count all their memory, and a
lack of resources is never reported as the client's error."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from antiphon.v1 import preprocess_pb2 as pb
from services.common.errors import Unavailable
from services.preprocess.media_loader import SOUND_OVERHEAD_BYTES, MediaLoader
from services.preprocess.preparer import Preparer
from tests.preprocess.media_files import sound_file, tone, video_file
from tests.preprocess.rig import Conversation, Rig, prepare
from tests.preprocess.samples import CAT, SPEECH

pytestmark = pytest.mark.asyncio(loop_scope="module")
SOUNDS = 80
TRIES = 20
LOOKS, LOOK_S = 10, 0.01


@contextmanager
def file_handles(more: int) -> Generator[None]:
    """Let this process open at most `more` further file handles."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free: list[int] = [os.open(os.devnull, os.O_RDONLY) for _ in range(more)]
    limit = os.dup(0)  # the lowest free number; all below it are in use
    os.close(limit)
    for handle in free:
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def handles_rest() -> None:
    """Wait until this process opens and closes none: what a job before held it may give back a moment later."""
    before, same = -1, 0
    while same < LOOKS:
        now = len(list(Path("/proc/self/fd").iterdir()))  # noqa: ASYNC240  # the kernel answers at once
        same = same + 1 if now == before else 0
        before = now
        await asyncio.sleep(LOOK_S)


async def prepare_starved(rig: Rig, more: int, talk: Conversation, folder: Path | None = None) -> Unavailable:
    """Prepare with at most `more` further file handles, and return the error that this brings. Something else in this
    process may give a handle back meanwhile, and a preparation gets through: then it is tried again."""
    for _ in range(TRIES):
        preparer = rig.preparer(folder=folder)  # one that has nothing cached
        await handles_rest()
        try:
            with file_handles(more):
                await prepare(preparer, talk)
        except Unavailable as error:
            assert (await prepare(preparer, talk)).features
            return error
    pytest.fail(f"{TRIES} times, a preparation found file handles where none were left")


def cached_sounds(preparer: Preparer) -> list[Any]:
    loader: MediaLoader = preparer._loader  # pyright: ignore[reportPrivateUsage]
    return list(loader._sounds._values.values())  # pyright: ignore[reportPrivateUsage]


def held_bytes(array: Any) -> int:
    """Return all the memory that an array keeps alive, in bytes."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.base is None
    return array.nbytes


async def test_more_sounds_are_cached_than_there_are_file_handles(rig: Rig):
    preparer = rig.preparer()
    with file_handles(SOUNDS // 4):
        for i in range(SOUNDS):
            talk = Conversation()
            talk.turn("user", talk.audio(sound_file(tone(0.05, hz=100 + i), 16_000, "wav")))
            assert (await prepare(preparer, talk, request_id=str(i))).features
    sounds = cached_sounds(preparer)
    assert len(sounds) == SOUNDS
    assert sum(held_bytes(sound) for sound in sounds) == SOUNDS * 4 * 800


async def test_a_films_cached_sound_holds_only_its_own_memory(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation(use_audio_in_video=True)
    talk.turn("user", talk.video(video_file(sound=tone(1.0, 48_000))))
    await prepare(preparer, talk)
    (track,) = cached_sounds(preparer)
    assert held_bytes(track) == track.nbytes
    loader: MediaLoader = preparer._loader  # pyright: ignore[reportPrivateUsage]
    assert loader._sounds.used_bytes == track.nbytes + SOUND_OVERHEAD_BYTES  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("source", ["inline", "file", "name"])
async def test_running_out_of_file_handles_is_our_error_and_passes(rig: Rig, tmp_path: Path, source: str):
    (tmp_path / "cat.jpg").write_bytes(CAT)
    rig.web.files["/cat.jpg"] = CAT
    talk = Conversation()
    part = {
        "inline": lambda: talk.audio(SPEECH),
        "file": lambda: pb.Part(image=pb.ImagePart(source=pb.MediaSource(local_path="cat.jpg"))),
        "name": lambda: pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/cat.jpg", "localhost")))),
    }[source]()
    talk.turn("user", part)
    error = await prepare_starved(rig, 0, talk, tmp_path)
    assert (error.status, error.code) == (503, "media_processing_unavailable")
    assert error.retry_after_s


async def test_an_answer_without_a_file_handle_is_our_error(rig: Rig):
    talk = Conversation()
    talk.turn("user", talk.audio(SPEECH))
    await prepare_starved(rig, 1, talk)  # the job takes the last one, so the decoder's answer cannot be received
