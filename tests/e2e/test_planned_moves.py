"""A worker that gets SIGTERM hands its answers over where another worker is."""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.questions import Client
from tests.e2e.workers import held, moved
from tests.fixtures.processes import has_ended
from tests.fixtures.wait import wait_until


@pytest.mark.parametrize("stage", ["thinker", "talker"])
async def test_a_worker_that_leaves_hands_its_answers_over(pairs: Client, stage: str) -> None:
    stack, name = pairs.stack, "long text" if stage == "thinker" else "long speech"
    before = await moved(stack, stage)
    asked = pairs.ask(name)
    await wait_until(lambda: asked.heard.pcm if stage == "talker" else asked.heard.token_ids)
    async with held(stack, stage) as worker:
        assert not asked.is_over
        leaving = stack.pids[worker]
        os.kill(leaving, signal.SIGTERM)
    await wait_until(lambda: has_ended(leaving))
    await pairs.check([asked], [name])
    assert await moved(stack, stage) == before + 1
