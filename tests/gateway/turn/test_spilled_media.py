"""Inline media leaves the gateway's memory once it is prepared; a turn that prepares again has it from the disk."""

from __future__ import annotations

import asyncio
import base64
import os
from typing import Any

import pytest

from services.gateway.spill import DiskFile, SpillDisk
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.checks import check_whole
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

SOUND = os.urandom(2_500_000)
LIMITS: dict[str, Any] = {"request_timeout_s": 60.0, "max_body_bytes": 8 << 20, "max_media_bytes": 4 << 20}
HEARD = [
    {
        "role": "user",
        "content": [
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}},
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        ],
    }
]


def disk(stages: Stages) -> SpillDisk:
    spill = stages.gateway.gateway.memory.spill
    assert isinstance(spill, SpillDisk)
    return spill


async def test_a_turn_prepares_again_from_the_disk(store: RedisServer) -> None:
    async with scripted_stages(store.url, **LIMITS) as stages:
        budget = stages.gateway.gateway.memory.budget
        stages.next_calls("thinker", Act("hang", 3))
        asked = asyncio.create_task(stages.ask(HEARD))
        await wait_until(lambda: stages.hanging("thinker") and budget.held_bytes == 0)
        assert disk(stages).used_bytes == len(SOUND) + 3
        next(worker for worker in stages.preprocess if worker.calls).kill()
        next(worker for worker in stages.thinker if worker.calls).kill()
        check_whole(stages, await asked, spoken=False, audio_tokens=6)
        assert [media for worker in stages.preprocess for media in worker.media] == [[SOUND, b"\0\0\0"]] * 2
        await wait_until(lambda: disk(stages).used_bytes == 0)


async def test_media_without_room_on_the_disk_stays_counted_to_the_turn_s_end(store: RedisServer) -> None:
    async with scripted_stages(store.url, spill_bytes=1000, **LIMITS) as stages:
        budget = stages.gateway.gateway.memory.budget
        stages.next_calls("thinker", Act("hang", 3))
        asked = asyncio.create_task(stages.ask(HEARD))
        await wait_until(lambda: stages.hanging("thinker"))
        assert budget.held_bytes >= len(SOUND)
        next(worker for worker in stages.preprocess if worker.calls).kill()
        next(worker for worker in stages.thinker if worker.calls).kill()
        check_whole(stages, await asked, spoken=False, audio_tokens=6)
        assert [media for worker in stages.preprocess for media in worker.media] == [[SOUND, b"\0\0\0"]] * 2
        await wait_until(lambda: budget.held_bytes == 0)


async def test_a_disk_that_can_not_be_read_ends_the_turn(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> bytes:
        raise OSError("the disk is broken")

    async with scripted_stages(store.url, **LIMITS) as stages:
        stages.next_calls("thinker", Act("hang", 3))
        asked = asyncio.create_task(stages.ask(HEARD))
        await wait_until(lambda: stages.hanging("thinker") and disk(stages).used_bytes > 0)
        monkeypatch.setattr(DiskFile, "_read", broken)
        next(worker for worker in stages.preprocess if worker.calls).kill()
        next(worker for worker in stages.thinker if worker.calls).kill()
        told = await asked
        assert told.error is not None
        assert told.error["code"] == "internal_error"
        await wait_until(lambda: disk(stages).used_bytes == 0)
