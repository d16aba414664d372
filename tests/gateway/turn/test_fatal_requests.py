"""A request that ends engines fails after its second one, and takes no other along."""

from __future__ import annotations

import asyncio

import pytest

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.scripted.checks import check_whole, engine_failure
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import SPEECH, Stages, scripted_stages


async def test_a_fatal_request_fails_with_its_own_code(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 0, engine_failure())] * 3)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "fatal_request"
    assert len(stages.calls("thinker")) == 2
    stages.next_calls("thinker")
    check_whole(stages, await stages.ask(), spoken=False)


@pytest.mark.parametrize("stage", ["thinker", "talker"])
async def test_a_fatal_request_does_not_take_others_along(store: RedisServer, stage: str) -> None:
    """It ends the engine that it shares with three others, in the first step of all of them. All four go on in one
    other engine, and it ends that one, too."""
    async with scripted_stages(store.url, workers=1, slots=4) as stages:
        (first,) = stages.thinker if stage == "thinker" else stages.talker
        first.engine.may_step.clear()
        fatal = asyncio.create_task(stages.ask([{"role": "user", "content": f"fatal {stage}"}], **SPEECH))
        others = [asyncio.create_task(stages.ask(**SPEECH)) for _ in range(3)]
        await wait_until(lambda: len(first.engine.inside) == 4)
        second = await stages.start_worker(stage)
        second.engine.may_step.clear()
        first.engine.may_step.set()
        await wait_until(lambda: len(second.calls) == 4 and second.engine.inside)
        assert len(second.engine.inside) == 1
        second.engine.may_step.set()
        await wait_until(lambda: not second.is_alive)
        third = await stages.start_worker(stage)
        told = await fatal
        assert told.error is not None
        assert told.error["code"] == "fatal_request"
        for other in others:
            check_whole(stages, await other, spoken=True)
        assert third.is_alive
        assert len(third.calls) <= 3
        await wait_until(stages.clean)


async def test_engines_that_fail_after_progress_do_not_count(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 2, engine_failure())] * 4)
    check_whole(stages, await stages.ask(), spoken=False)


async def test_a_request_cannot_end_one_engine_per_token(stages: Stages) -> None:
    stages.next_calls("thinker", *[Act("raise", 1, engine_failure())] * 9)
    told = await stages.ask()
    assert told.error is not None
    assert told.error["code"] == "fatal_request"
    assert len(stages.calls("thinker")) == 6
