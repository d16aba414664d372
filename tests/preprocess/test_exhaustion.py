"""What preprocess does near the limits of its own process: it keeps no file handle, counts what it holds, and never
blames the client for what the machine lacks."""

from __future__ import annotations

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


@contextmanager
def file_handles(more: int) -> Generator[None]:
    """Let this process open `more` file handles than it has, and no other."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free: list[int] = [os.open(os.devnull, os.O_RDONLY) for _ in range(more)]
    limit = os.dup(0)  # the lowest number that is not in use; those below it are
    os.close(limit)
    for handle in free:
        os.close(handle)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cached_sounds(preparer: Preparer) -> list[Any]:
    loader: MediaLoader = preparer._loader  # pyright: ignore[reportPrivateUsage]
    return list(loader._sounds._values.values())  # pyright: ignore[reportPrivateUsage]


def held_bytes(array: Any) -> int:
    """All the memory that an array keeps alive."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    assert array.base is None
    return array.nbytes


async def test_more_sounds_are_kept_than_there_are_file_handles(rig: Rig):
    preparer = rig.preparer()
    with file_handles(SOUNDS // 4):
        for i in range(SOUNDS):
            talk = Conversation()
            talk.turn("user", talk.audio(sound_file(tone(0.05, hz=100 + i), 16_000, "wav")))
            assert (await prepare(preparer, talk, request_id=str(i))).features
    sounds = cached_sounds(preparer)
    assert len(sounds) == SOUNDS
    assert sum(held_bytes(sound) for sound in sounds) == SOUNDS * 4 * 800


async def test_the_cached_sound_of_a_film_holds_nothing_but_itself(rig: Rig):
    preparer = rig.preparer()
    talk = Conversation(use_audio_in_video=True)
    talk.turn("user", talk.video(video_file(sound=tone(1.0, 48_000))))
    await prepare(preparer, talk)
    (track,) = cached_sounds(preparer)
    assert held_bytes(track) == track.nbytes
    loader: MediaLoader = preparer._loader  # pyright: ignore[reportPrivateUsage]
    assert loader._sounds.used_bytes == track.nbytes + SOUND_OVERHEAD_BYTES  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("source", ["inline", "file", "name"])
async def test_a_process_without_file_handles_blames_itself_and_recovers(rig: Rig, tmp_path: Path, source: str):
    preparer = rig.preparer(folder=tmp_path)
    (tmp_path / "cat.jpg").write_bytes(CAT)
    rig.web.files["/cat.jpg"] = CAT
    talk = Conversation()
    part = {
        "inline": lambda: talk.audio(SPEECH),
        "file": lambda: pb.Part(image=pb.ImagePart(source=pb.MediaSource(local_path="cat.jpg"))),
        "name": lambda: pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/cat.jpg", "localhost")))),
    }[source]()
    talk.turn("user", part)
    with file_handles(0), pytest.raises(Unavailable) as caught:
        await prepare(preparer, talk)
    assert (caught.value.status, caught.value.code) == (503, "media_processing_unavailable")
    assert caught.value.retry_after_s
    assert (await prepare(preparer, talk)).features


async def test_an_answer_that_meets_the_last_file_handle_blames_the_process(rig: Rig):
    talk = Conversation()
    talk.turn("user", talk.audio(SPEECH))
    preparer = rig.preparer()
    with file_handles(1), pytest.raises(Unavailable):  # the job takes it: the decoder's answer cannot be received
        await prepare(preparer, talk)
    assert (await prepare(preparer, talk)).features
