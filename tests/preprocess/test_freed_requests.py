"""What a request that failed held is freed at once, and not when the garbage collector comes by."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable

import pytest
from PIL import Image

from antiphon.v1 import preprocess_pb2 as pb
from services.common.errors import AntiphonError, forget_frames
from services.preprocess.limits import MediaLimits
from services.preprocess.memory import divide
from services.preprocess.preparation import ItemFiles, Preparation
from services.preprocess.preparer import Preparer
from tests.fixtures.garbage import collect_garbage, without_collector
from tests.fixtures.wait import wait_until
from tests.preprocess.rig import Conversation, Rig, prepare

pytestmark = pytest.mark.asyncio(loop_scope="module")

MIB = 1 << 20


async def leaves_nothing(ask: Callable[[], Awaitable[object]]) -> None:
    with without_collector() as garbage:
        await ask()
        await asyncio.sleep(0)  # what the last task held
        collect_garbage()
        assert [type(one) for one in garbage if isinstance(one, (Preparation, ItemFiles))] == []


async def code_of(preparer: Preparer, talk: Conversation) -> str:
    """Return the code of the error that `prepare` raises. The error loses its frames, as at the end of a call."""
    try:
        await prepare(preparer, talk)
    except AntiphonError as error:
        forget_frames(error)
        return error.code
    return "prepared"


def images_of(*sources: pb.MediaSource) -> Conversation:
    return Conversation().turn("user", *[pb.Part(image=pb.ImagePart(source=source)) for source in sources])


def picture_of(size: int) -> bytes:
    """Return a PNG of `size` bytes, most of which stand after its end."""
    file = io.BytesIO()
    Image.new("RGB", (32, 32)).save(file, "PNG")
    return file.getvalue().ljust(size, b"\0")


@pytest.mark.parametrize("told", [True, False])
async def test_urls_that_are_too_large(rig: Rig, told: bool) -> None:
    file = picture_of(MIB)  # a readable one: the first may be looked at before the second is too large

    async def answer(writer: asyncio.StreamWriter) -> None:
        length = b"Content-Length: %d\r\n" % MIB if told else b""
        writer.write(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + file)
        await writer.drain()

    rig.web.answers["/large"] = answer
    preparer = rig.preparer(MediaLimits(request_bytes=3 * MIB // 2))
    source = pb.MediaSource(url=rig.web.url("/large"))

    async def ask() -> None:
        assert await code_of(preparer, images_of(source, source)) == "too_large"

    await leaves_nothing(ask)


async def test_files_of_no_format(rig: Rig) -> None:
    async def ask() -> None:
        talk = Conversation()
        talk.turn("user", talk.image(bytes(MIB)), talk.audio(bytes(MIB)))
        assert await code_of(rig.preparer(), talk) == "invalid_media"

    await leaves_nothing(ask)


async def test_a_film_whose_last_url_fails(rig: Rig) -> None:
    rig.web.files["/frame"] = bytes(MIB)
    sources = [pb.MediaSource(url=rig.web.url(path)) for path in ("/frame", "/frame", "/nowhere")]

    async def ask() -> None:
        talk = Conversation().turn("user", pb.Part(video=pb.VideoPart(frames=sources)))
        assert await code_of(rig.preparer(), talk) == "media_unavailable"

    await leaves_nothing(ask)


async def test_a_client_that_leaves(rig: Rig) -> None:
    budgets, left = divide(2 << 30), asyncio.Event()

    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(MIB))
        await left.wait()

    rig.web.answers["/half"] = answer
    source = pb.MediaSource(url=rig.web.url("/half"))

    async def ask() -> None:
        asking = asyncio.create_task(prepare(rig.preparer(budgets=budgets), images_of(source, source)))
        await wait_until(lambda: budgets.files.held_bytes >= 6 * MIB)
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        left.set()

    await leaves_nothing(ask)
    assert budgets.files.holds == 0
