"""What a turn waits for, and what it does not wait for."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import Capacity
from services.gateway.turn import speak
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.samples import sample
from tests.gateway.scripted.checks import check_whole, in_progress
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, SPEECH, Stages, scripted_stages
from tests.gateway.scripted.story import Story


async def test_a_resume_waits_for_a_full_worker(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 3), Act("raise", 0, Capacity("full", retry_after_s=0.01)))
    check_whole(stages, await stages.ask(), spoken=False)


@pytest.mark.parametrize("stage", ["thinker", "talker"])
async def test_a_resume_waits_while_redis_is_away(redis_server: RedisServer, stage: str) -> None:
    """A worker dies while Redis is away: its turn goes on once Redis is back. New requests are refused meanwhile."""
    async with scripted_stages(redis_server.url) as stages:
        stages.next_calls(stage, Act("hang", 4))
        asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
        (lost,) = await in_progress(stages, stage)
        redis_server.kill()
        told = await stages.ask()
        assert told.error is not None
        assert told.error["code"] == "unavailable"
        lost.kill()
        told = await stages.ask()  # the turn that resumes does not change this
        assert told.error is not None
        assert not asked.done()
        redis_server.start()
        check_whole(stages, await asked, spoken=True, audio_tokens=3)
        await wait_until(stages.clean)


async def test_a_thinker_waits_for_no_talker(store: RedisServer) -> None:
    """No talker is free: the whole text waits in the gateway, and the thinker's slot is free for others."""

    def ended() -> float:
        return sample("antiphon_gateway_thinker_tokens_per_second_count")

    before = ended()
    async with scripted_stages(store.url, Story(words=300), workers=1) as stages:
        (thinker,), (talker,) = stages.thinker, stages.talker
        stages.next_calls("talker", Act("hang", 0), Act("hang", 0))
        busy = [asyncio.create_task(stages.ask(**SPEECH)) for _ in range(2)]  # the talker's slots
        await wait_until(lambda: talker.script.hanging == len(busy))
        await wait_until(lambda: ended() == before + 2)
        asked = asyncio.create_task(stages.ask(**SPEECH))
        await wait_until(lambda: ended() == before + 3)
        await wait_until(lambda: not thinker.keeper.busy)
        await wait_until(lambda: stages.has_waiting("talker", 1))
        assert not asked.done()
        busy[0].cancel()
        check_whole(stages, await asked, spoken=True)
        busy[1].cancel()
        await asyncio.gather(*busy, return_exceptions=True)
        await wait_until(stages.clean)


async def test_a_talker_waits_for_a_thinker_that_comes_back_late(
    stages: Stages, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The talker ends a call with a silent caller, so the gateway sends empty texts meanwhile."""
    monkeypatch.setattr(speak, "TEXT_EVERY_S", 0.01)
    stages.next_calls("thinker", Act("hang", 3))
    asked = asyncio.create_task(stages.ask(**SPEECH))
    await wait_until(lambda: any(talker.empty_texts >= 3 for talker in stages.talker))
    next(worker for worker in stages.thinker if worker.calls).kill()
    check_whole(stages, await asked, spoken=True)
