"""What the tests of turns on scripted workers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest_asyncio

from services.common.errors import ENGINE_FAILED, WorkerLost
from services.common.queues import QueueName
from services.common.queues.keys import Keyspace
from services.common.redis_client import connect
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import HEARD, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS
from tests.gateway.scripted.worker import ScriptedTalker, ScriptedThinker, ScriptedWorker


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    """Run three workers of each stage. At the test's end, nothing may be left of its turns."""
    async with scripted_stages(store.url, workers=3) as running:
        yield running
        await wait_until(running.clean)


def engine_failure() -> WorkerLost:
    return WorkerLost("the engine is gone", code=ENGINE_FAILED)


def check_whole(stages: Stages, told: Told, *, spoken: bool, audio_tokens: int = 0) -> None:
    """Assert that the answer equals that of an undisturbed turn, with each token and frame counted once."""
    story = stages.story
    assert told.error is None
    assert (told.token_ids, told.text, told.roles) == (story.token_ids, story.text, 1)
    assert told.finish_reason == "stop"
    if spoken:
        assert (told.codes, told.pcm, told.codebooks) == (story.codes, story.pcm, CODEBOOKS)
    usage = told.usage
    assert usage["prompt_tokens"] == 3 + audio_tokens
    assert usage["completion_tokens"] == len(story.token_ids) + (story.frames if spoken else 0)
    assert usage["prompt_tokens_details"]["cached_tokens"] == 2


async def in_progress(stages: Stages, stage: str) -> list[ScriptedWorker]:
    """Wait until one of the stage's calls hangs. Return the workers that got its calls."""
    await wait_until(lambda: stages.hanging(stage))
    return [worker for worker in stages.workers if worker.stage == stage and worker.calls]


async def in_mid_speech(stages: Stages) -> tuple[asyncio.Task[Told], ScriptedThinker, ScriptedTalker]:
    """Return a spoken answer whose text is complete and whose talker hangs, and the workers that it is on."""
    stages.next_calls("talker", Act("hang", 4))
    asked = asyncio.create_task(stages.ask(HEARD, **SPEECH))
    await wait_until(lambda: stages.hanging("talker"))
    thinker = next(worker for worker in stages.thinker if worker.calls)
    await wait_until(lambda: not thinker.keeper.busy)
    return asked, thinker, next(worker for worker in stages.talker if worker.calls)


async def charged(store: RedisServer, *stages: str) -> list[float]:
    """Return the only tenant's clock of each stage: it advances by what its turns cost there."""
    redis = connect(store.url)
    try:
        clocks = [Keyspace(redis).queue_key(QueueName(stage, INSTRUCT.name), "clocks", "0") for stage in stages]
        return [float(await redis.zscore(clock, "default") or 0) for clock in clocks]
    finally:
        await redis.aclose()
