"""What a gateway tells the control plane of keys that it refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from services.common.errors import Unauthenticated
from services.gateway.control import refused_keys
from services.gateway.control.refused_keys import MOST, OTHERS, RefusedKeys
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.control_plane import TOKEN, ScriptedControl, scripted_control

WRONG = Unauthenticated("Wrong.", code="invalid_api_key")
SECRET = "0123456789" * 4
PATH = "/v1/models"


def shown(n: int) -> bytes:
    digits = "".join("abcdefghij"[int(digit)] for digit in f"{n:010}")
    return f"Bearer ap_{digits}_{SECRET}".encode()


@asynccontextmanager
async def reporting(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[tuple[ScriptedControl, RefusedKeys]]:
    monkeypatch.setattr(refused_keys, "SOON_S", 0.02)
    monkeypatch.setattr(refused_keys, "PAUSE_S", 0.0)
    async with scripted_control() as control:
        refused = RefusedKeys(control.address, TOKEN, "gateway-1", clock=lambda: 5.0)
        task = asyncio.create_task(refused.run())
        yield control, refused
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_each_key_is_told_once_with_how_often(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reporting(monkeypatch) as (control, refused):
        for request_id in ("first", "last"):
            refused.note(shown(0), WRONG, path=PATH, remote="192.0.2.1", request_id=request_id)
        refused.note(b"Bearer hunter2", WRONG, path="/" * 1000, remote="")
        await wait_until(lambda: len(control.refused) == 2)
        key, password = control.refused
        assert (key.prefix, key.code, key.count) == ("ap_aaaaaaaaaa", "invalid_api_key", 2)
        assert (key.path, key.remote, key.request_id, key.last_unix_ms) == (PATH, "192.0.2.1", "last", 5000)
        assert (password.prefix, password.count, len(password.path)) == ("", 1, 255)
        assert SECRET not in str(control.refused)
        assert "hunter2" not in str(control.refused)


async def test_nothing_is_forgotten_while_the_control_plane_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    async with reporting(monkeypatch) as (control, refused):
        control.is_away = True
        refused.note(shown(0), WRONG, path=PATH, remote="")
        await wait_until(lambda: control.refusals_lost == 2)
        refused.note(shown(0), WRONG, path=PATH, remote="")
        control.is_away = False
        await wait_until(lambda: sum(one.count for one in control.refused) == 2)


async def test_strangers_fill_no_memory() -> None:
    refused = RefusedKeys("127.0.0.1:1", TOKEN, "gateway-1")
    for n in range(MOST + 10):
        refused.note(shown(n), WRONG, path=PATH, remote="")
    noted = list(refused._refused.values())  # pyright: ignore[reportPrivateUsage]
    assert len(noted) == MOST + 1
    assert [(one.prefix, one.code, one.count) for one in noted][-1] == ("", OTHERS, 10)
