"""Small malformed files of each container. Each is refused or decoded, and none crashes its decoder."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.preprocess.decoding.jobs import Job
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.limits import MediaLimits
from services.preprocess.media.problems import MediaProblem
from services.preprocess.media.sampling import VideoOptions
from tests.preprocess.media_files import image_file, photograph, sound_file, tone, video_file

pytestmark = pytest.mark.asyncio(loop_scope="module")
MUTANTS = 24  # of each file
LIMITS = MediaLimits(audio_s=20, video_s=20, image_pixels=1 << 20, video_frame_pixels=1 << 20)
SHORT = tone(0.08)
FILES: dict[str, tuple[Any, bytes]] = {
    **{kind: ("audio", sound_file(SHORT, 16_000, kind)) for kind in ("wav", "flac", "mp3", "ogg", "opus", "m4a")},
    "weba": ("audio", sound_file(tone(0.08, 48_000), 48_000, "webm")),
    **{kind: ("image", image_file(photograph()[:24, :24], kind)) for kind in ("png", "jpeg", "gif", "webp")},
    **{
        kind: ("video", video_file(frames=4, size=(32, 32), kind=kind, sound=tone(0.1, 48_000)))
        for kind in ("mp4", "webm", "mkv", "mpeg4")
    },
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pool() -> AsyncGenerator[DecodePool]:
    async with DecodePool(1, memory_bytes=1 << 30, timeout_s=30) as pool:
        await pool.start()
        yield pool


def mutant(data: bytes, seed: int) -> bytes:
    """Return `data` with random bytes changed, mostly in its headers. Sometimes also cut it or repeat a part."""
    draw = np.random.default_rng(seed)
    out = bytearray(data)
    reach = len(out) if draw.random() < 0.3 else min(len(out), 400)
    for at in draw.integers(0, reach, size=draw.integers(1, 9)):
        out[at] = draw.choice([0, 1, 0x7F, 0x80, 0xFF, int(draw.integers(256))])
    if draw.random() < 0.2:
        del out[int(draw.integers(1, len(out))) :]
    if draw.random() < 0.1:
        at = int(draw.integers(len(out)))
        out[at:at] = out[at : at + 64]
    return bytes(out)


@pytest.mark.parametrize("name", FILES)
async def test_no_malformed_file_crashes_its_decoder(pool: DecodePool, name: str):
    kind, data = FILES[name]

    async def decode(file: bytes) -> None:
        await pool.decode(Job(kind, (file,), LIMITS, VideoOptions(factor=32), with_sound=kind == "video", cpu_s=20))

    await decode(data)  # a film has another decoder than what came before
    before, problems = pool.process_ids, list[str]()
    for seed in range(MUTANTS):
        try:
            await decode(mutant(data, seed))
        except MediaProblem as problem:
            problems.append(problem.message)
        assert pool.process_ids == before, f"{name}, seed {seed}"
    assert problems
    assert not [message for message in problems if "breaks its decoder" in message]


def wav_of_codec(tag: int) -> bytes:
    """Return a WAV file of 48 bytes with this format tag."""
    layout = struct.pack("<HHIIHH", tag, 1, 16_000, 32_000, 2, 16)
    body = b"WAVEfmt " + struct.pack("<I", len(layout)) + layout + b"data" + struct.pack("<I", 4) + bytes(4)
    return b"RIFF" + struct.pack("<I", len(body)) + body


async def test_an_unknown_codec_error_lists_the_accepted_ones(pool: DecodePool):
    film, sound = FILES["mp4"][1], FILES["weba"][1]
    unknown = {
        "WAV format tag 0x4321": ("audio", wav_of_codec(0x4321)),
        "MP4 code": ("video", film.replace(b"avc1", b"zzz1")),
        "A_NONE": ("audio", sound.replace(b"A_OPUS", b"A_NONE")),
    }
    for named, (kind, data) in unknown.items():
        with pytest.raises(MediaProblem) as caught:
            await pool.decode(Job(kind, (data,), LIMITS, VideoOptions(factor=32)))  # pyright: ignore[reportArgumentType]
        assert named in caught.value.message
        assert {"audio": "opus", "video": "h264"}[kind] in caught.value.message
