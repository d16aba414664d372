"""What requests take together stays within their budget, whatever they send."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from antiphon.v1 import common_pb2
from antiphon.v1 import preprocess_pb2 as pb
from bench.memory.hostile import Hostile
from bench.memory.run import storm
from services.common.errors import BadInput, TooLarge
from services.preprocess.decoding.pool import DecodePool
from services.preprocess.features import FeatureExtractor
from services.preprocess.limits import MediaLimits
from services.preprocess.media.audio import decode_audio
from services.preprocess.memory import FILE_COPIES, SAMPLE_BYTES_PER_S, divide, sound_bytes
from services.preprocess.preparer import Prepared
from services.preprocess.waiting_room import WaitingRoom
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.preprocess.media_files import image_file, photograph, sound_file
from tests.preprocess.rig import Conversation, Rig, prepare, prepare_start, refused, running_rig, stage_runs
from tests.preprocess.samples import CAT, SPEECH

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


def film_of_urls(rig: Rig, path: str, count: int) -> Conversation:
    sources = [pb.MediaSource(url=rig.web.url(path)) for _ in range(count)]
    return Conversation().turn("user", pb.Part(video=pb.VideoPart(frames=sources)))


@pytest.mark.parametrize("told", [True, False])
async def test_the_limit_on_bytes_holds_for_all_frames_of_a_film_together(rig: Rig, told: bool):
    sent = 0

    async def answer(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        length = b"Content-Length: %d\r\n" % MIB if told else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + bytes(MIB))
        await writer.drain()
        sent += 1

    rig.web.answers["/frame"] = answer
    budgets = divide(2 << 30)
    error = await refused(
        rig.preparer(MediaLimits(request_bytes=5 * MIB), budgets=budgets), film_of_urls(rig, "/frame", 100)
    )
    assert isinstance(error, TooLarge)
    assert str(5 * MIB) in error.message
    assert sent <= 6
    assert budgets.files.holds == budgets.files.held_bytes == 0


async def test_a_request_waits_until_another_gives_its_memory_back(rig: Rig):
    data = image_file(photograph(), "png")
    budgets = divide(int(FILE_COPIES * len(data) * 1.5 / 0.4) + (1 << 30))
    preparer = rig.preparer(budgets=budgets)
    async with budgets.files.take(budgets.files.total_bytes, what="Another request"):
        talk = Conversation()
        waiting = asyncio.create_task(prepare(preparer, talk.turn("user", talk.image(data))))
        await wait_until(lambda: budgets.files.waiting == 1)
        text = await prepare(preparer, Conversation().turn("user", "hello"))  # it takes none
        assert text.token_ids
    assert (await waiting).features
    assert [budget.held_bytes for budget in (budgets.files, budgets.small, budgets.large)] == [0, 0, 0]


async def test_a_failed_request_gives_everything_back(rig: Rig):
    budgets = divide(2 << 30)
    preparer = rig.preparer(budgets=budgets)
    talk = Conversation()
    talk.turn("user", talk.image(CAT), talk.audio(SPEECH), talk.image(b"no picture"))
    assert isinstance(await refused(preparer, talk), BadInput)
    assert [budget.holds for budget in (budgets.files, budgets.small, budgets.large)] == [0, 0, 0]


async def test_an_item_that_could_never_fit_is_refused_by_its_headers(tiny_instruct: Path, extractor: FeatureExtractor):
    budgets = divide(256 * MIB)
    pool = DecodePool(1, memory_bytes=2 << 30, timeout_s=60, budgets=budgets)
    async with running_rig(tiny_instruct, extractor, pool) as rig:
        preparer = rig.preparer(budgets=budgets)
        talk = Conversation()
        talk.turn("user", talk.image(image_file(np.zeros((7000, 7000, 3), np.uint8), "png")))
        error = await refused(preparer, talk)
        assert error.code == "media_too_large"
        assert f"{budgets.large.total_bytes // MIB} MiB are allowed" in error.message


async def test_hostile_requests_at_once_take_no_more_than_the_budget(tiny_instruct: Path, extractor: FeatureExtractor):
    """The small version of bench.memory."""
    budgets = divide(320 * MIB)
    pool = DecodePool(1, memory_bytes=1 << 30, timeout_s=60, budgets=budgets)
    async with running_rig(tiny_instruct, extractor, pool) as rig:
        limits = MediaLimits(item_bytes=4 * MIB, request_bytes=16 * MIB, audio_s=400)
        preparer = rig.preparer(limits, budgets=budgets, store_bytes=64 * MIB)
        hostile = Hostile(rig.web, scale=32, bytes_scale=8)
        seen = await storm(preparer, pool, hostile.kinds, requests=11, at_once=11)
    assert seen["grown_mib"] <= 320 * 1.2 + 64, seen
    assert sum(seen["outcomes"].values()) == 11
    assert [budget.holds for budget in (budgets.files, budgets.small, budgets.large)] == [0, 0, 0]


async def test_a_sound_longer_than_its_file_lets_expect_waits_for_its_memory(rig: Rig):
    budgets = divide(1 << 30)
    silence = sound_file(np.zeros((100 * 16_000, 1), np.float32), 16_000, "flac")
    assert sound_bytes(len(silence), MediaLimits()) < SAMPLE_BYTES_PER_S * 100
    talk, runs = Conversation(), stage_runs("decode")
    prepared = await prepare(rig.preparer(budgets=budgets), talk.turn("user", talk.audio(silence)))
    assert prepared.features
    assert stage_runs("decode") == runs + 2
    assert [budget.holds for budget in (budgets.files, budgets.small, budgets.large)] == [0, 0, 0]


async def test_a_request_holds_the_memory_of_its_cached_sounds(rig: Rig):
    asked, answered = asyncio.Event(), asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        asked.set()
        await answered.wait()
        writer.write(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    rig.web.answers["/later"] = answer
    budgets = divide(2 << 30)
    preparer = rig.preparer(budgets=budgets)
    first = Conversation()
    await prepare(preparer, first.turn("user", first.audio(SPEECH)))
    again = Conversation()
    later = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/later"))))
    waiting = asyncio.create_task(refused(preparer, again.turn("user", again.audio(SPEECH), later)))
    samples = decode_audio(SPEECH, MediaLimits())
    await asked.wait()
    await wait_until(lambda: budgets.files.held_bytes == FILE_COPIES * len(SPEECH) + samples.nbytes)
    answered.set()
    await waiting
    assert budgets.files.held_bytes == 0


async def test_slow_fetches_of_one_tenant_leave_room_to_wait_for_others(rig: Rig):
    """Of nine places one tenant has eight: its next request keeps its slot, and another tenant's gives it back."""
    fetched = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        await fetched.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CAT) + CAT)
        await writer.drain()

    rig.web.answers["/slowly"] = answer
    preparer = rig.preparer(waiting=WaitingRoom(9, slow_fetch_s=0.01))
    part = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/slowly"))))
    freed: list[str] = []

    def ask(request_id: str, tenant: str) -> asyncio.Task[Prepared]:
        talk = Conversation().turn("user", part)
        talk.start.context.CopyFrom(common_pb2.RequestContext(request_id=request_id, tenant=tenant))
        return asyncio.create_task(prepare_start(preparer, talk, lambda: freed.append(tenant)))

    async with asyncio.timeout(HANGS_AFTER_S):
        before = len(rig.web.heads)
        asked = [ask(f"flood-{n}", "flood") for n in range(9)]
        await wait_until(lambda: len(rig.web.heads) == before + 9)
        asked.append(ask("other", "other"))  # its fetch counts as slow after all of the flood's do
        await wait_until(lambda: "other" in freed)
        assert freed == ["flood"] * 8 + ["other"]
        fetched.set()
        await asyncio.gather(*asked)
        fetched.clear()
        rig.web.answers["/again"] = answer  # the first one's hash is known by now
        part.image.source.url = rig.web.url("/again")
        again = ask("again", "flood")
        await wait_until(lambda: freed[9:] == ["flood"])
        fetched.set()
        await again


async def test_a_slow_fetch_frees_its_requests_slot(rig: Rig):
    freed = asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        await freed.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(CAT) + CAT)
        await writer.drain()

    rig.web.answers["/slow"] = answer
    preparer = rig.preparer(waiting=WaitingRoom(slow_fetch_s=0.01))
    part = pb.Part(image=pb.ImagePart(source=pb.MediaSource(url=rig.web.url("/slow"))))
    talk = Conversation().turn("user", part)
    talk.start.context.request_id = "slow"
    async with asyncio.timeout(HANGS_AFTER_S):
        assert (await prepare_start(preparer, talk, freed.set)).features
