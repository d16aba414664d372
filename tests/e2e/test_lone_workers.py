"""A worker that gets SIGTERM keeps its answers where no other worker is."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.e2e.asking import SPEECH, Asked, check_same, client_of
from tests.e2e.workers import all_ready, moved
from tests.fixtures.processes import has_ended
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until


async def test_a_worker_without_another_keeps_its_answers(stack: Stack) -> None:
    """Thinker and talker leave at the same time. Each is the only one of its stage."""
    await all_ready(stack)
    options: dict[str, Any] = SPEECH | {"talker": {"seed": 5, "max_frames": 200}}
    async with client_of(stack) as client:
        expected = await Asked(client, stack, 400, **options).whole()
        before = {stage: stack.pids[stage] for stage in ("thinker", "talker")}
        moves = {stage: await moved(stack, stage) for stage in before}
        asked = Asked(client, stack, 400, **options)
        await wait_until(lambda: asked.heard.pcm)
        for pid in before.values():
            os.kill(pid, signal.SIGTERM)
        await check_same([asked], [expected])
    assert {stage: await moved(stack, stage) for stage in before} == moves
    await wait_until(lambda: all(map(has_ended, before.values())))
    await all_ready(stack)
