"""The object store: a folder and S3 do the same."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from s3fs.core import S3File

from services.common.errors import Gone, Unavailable
from services.common.settings import SettingsError
from services.gateway.batches.object_store import ObjectStore, open_object_store
from tests.fixtures.ports import free_port
from tests.fixtures.s3 import BUCKET, KEY, SECRET, S3Server
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

PART = 5 * 1024**2


@pytest.fixture(params=["folder", "s3"])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> ObjectStore:
    if request.param == "folder":
        return open_object_store(f"file://{tmp_path}/store")
    server: S3Server = request.getfixturevalue("s3")
    return open_object_store(f"s3://{BUCKET}/of/tests", endpoint=server.endpoint, key=KEY, secret=SECRET)


async def written(objects: ObjectStore, name: str, *pieces: bytes) -> None:
    async with objects.writing(name) as writer:
        for piece in pieces:
            await writer.write(piece)
        assert writer.bytes == sum(map(len, pieces))


async def test_what_was_written_is_read(objects: ObjectStore) -> None:
    await written(objects, "files/a", b"hello ", b"world")
    assert await objects.read("files/a", 0, 11) == b"hello world"
    assert await objects.read("files/a", 6, 3) == b"wor"
    assert [chunk async for chunk in objects.chunks("files/a", 1, 9, 4)] == [b"ello", b" wor", b"l"]
    with pytest.raises(Gone):
        await objects.read("files/b", 0, 1)
    await written(objects, "files/a", b"anew")  # no reader sees what was there before
    assert await objects.read("files/a", 0, 4) == b"anew"


async def test_an_object_of_many_parts_is_whole(objects: ObjectStore) -> None:
    pieces = [bytes([number]) * PART for number in range(4)]
    await written(objects, "large", *pieces)
    found = b"".join([chunk async for chunk in objects.chunks("large", 0, 4 * PART)])
    assert found == b"".join(pieces)
    await objects.remove("large")


@pytest.mark.parametrize("size", [10, 3 * PART])
async def test_an_object_that_failed_is_none(objects: ObjectStore, request: pytest.FixtureRequest, size: int) -> None:
    async def fail() -> None:
        async with objects.writing("files/half") as writer:
            await writer.write(b"x" * size)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    with pytest.raises(Gone):
        await objects.read("files/half", 0, 1)
    if "s3" in request.node.callspec.params.values():
        server: S3Server = request.getfixturevalue("s3")
        assert server.uploads == 0


@pytest.mark.parametrize(("step", "size"), [("_initiate_upload", 3 * PART), ("commit", 3 * PART), ("commit", 10)])
async def test_a_write_that_is_cancelled_leaves_nothing_of_its_object(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, step: str, size: int
) -> None:
    """S3 gets the request that is under way after the writer was cancelled: its thread can't be."""
    asks, goes_on, real = threading.Event(), threading.Event(), getattr(S3File, step)

    def ask(file: S3File) -> None:
        asks.set()
        assert goes_on.wait(HANGS_AFTER_S)
        real(file)

    monkeypatch.setattr(S3File, step, ask)
    objects = open_object_store(f"s3://{BUCKET}/of/cancels", endpoint=s3.endpoint, key=KEY, secret=SECRET)
    writing = asyncio.create_task(written(objects, "files/half", b"x" * size))
    await wait_until(asks.is_set)
    writing.cancel()
    await asyncio.wait((writing,), timeout=0.1)  # time for a writer that does not wait to leave
    goes_on.set()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert s3.uploads == 0
    assert s3.objects("of/cancels") == []


async def test_removed_objects_are_gone(objects: ObjectStore) -> None:
    for name in ("results/one/a", "results/one/b", "results/other"):
        await written(objects, name, b"x")
    await objects.remove_folder("results/one")
    await objects.remove("results/none")
    await objects.remove_folder("results/none")
    for name in ("results/one/a", "results/one/b"):
        with pytest.raises(Gone):
            await objects.read(name, 0, 1)
    assert await objects.read("results/other", 0, 1) == b"x"


async def test_a_store_that_is_away_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for store in (
        open_object_store(f"file://{tmp_path}/file"),
        open_object_store(f"s3://{BUCKET}", endpoint=f"http://127.0.0.1:{free_port()}", key=KEY, secret=SECRET),
    ):
        with pytest.raises(Unavailable):
            await written(store, "a", b"x")


def test_a_url_that_nothing_reaches_is_refused() -> None:
    with pytest.raises(SettingsError, match="ANTIPHON_OBJECT_STORE_URL"):
        open_object_store("nothing://there")
