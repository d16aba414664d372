"""What a gateway leaves behind when it ends, well or not."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import pytest

from services.common.scratch import ScratchDir
from services.common.settings import SettingsError
from services.gateway.spill import SpillDisk
from tests.fixtures.redis import RedisServer
from tests.gateway.conftest import running_gateway


def in_folder(folder: Path) -> set[Path]:
    return set(folder.iterdir())


async def is_open(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionRefusedError:
        return False
    writer.close()
    await writer.wait_closed()
    return True


async def test_an_error_inside_closes_its_socket(store: RedisServer) -> None:
    ports: list[int] = []

    async def fail() -> None:
        async with running_gateway(store.url) as gateway:
            ports.append(gateway.port)
            assert await is_open(gateway.port)
            raise ZeroDivisionError

    with pytest.raises(ExceptionGroup) as failed:
        await fail()
    assert failed.group_contains(ZeroDivisionError)
    assert not await is_open(ports[0])


async def test_a_cancelled_gateway_closes_its_socket(store: RedisServer) -> None:
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def serve() -> None:
        async with running_gateway(store.url) as gateway:
            started.set_result(gateway.port)
            await asyncio.Event().wait()

    serving = asyncio.create_task(serve())
    port = await started
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert not await is_open(port)


async def test_media_is_spilled_into_a_folder_of_the_gateway_s_own(store: RedisServer, tmp_path: Path) -> None:
    killed = tmp_path / "antiphon-killed"
    killed.mkdir()
    (killed / "owner").touch()
    with ScratchDir(tmp_path) as living:
        async with running_gateway(store.url, spill_dir=tmp_path) as gateway:
            assert not killed.exists()
            (own,) = in_folder(tmp_path) - {living.path}
            assert stat.S_IMODE(own.stat().st_mode) == 0o700
            spill = gateway.gateway.memory.spill
            assert isinstance(spill, SpillDisk)
            file = await spill.write([b"sound"])
            assert file is not None
            assert await file.read(0, 5) == b"sound"
            file.close()
        assert in_folder(tmp_path) == {living.path}


async def test_a_gateway_that_spills_nothing_makes_no_folder(store: RedisServer, tmp_path: Path) -> None:
    async with running_gateway(store.url, spill_dir=tmp_path, spill_bytes=0):
        assert not in_folder(tmp_path)


async def test_a_folder_that_cannot_be_used_is_named_at_the_start(store: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ANTIPHON_SPILL_DIR"):
        async with running_gateway(store.url, spill_dir=tmp_path / "absent"):
            pass
