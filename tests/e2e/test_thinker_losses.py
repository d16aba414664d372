"""A thinker is lost while requests are on it in mid-text, and others that have no token yet.

The worker with the features of one of them is lost too, so that the next thinker cannot pull them.
"""

from __future__ import annotations

import os
import signal

import pytest

from tests.e2e.questions import Client
from tests.e2e.workers import engine_of, engines, feature_holder, held, in_queues, metric, stopped
from tests.fixtures.wait import wait_until


@pytest.mark.parametrize("process", ["server", "engine core"])
async def test_requests_in_every_phase_survive_the_loss_of_their_thinker(pairs: Client, process: str) -> None:
    stack = pairs.stack
    names = ("long text", f"media: {process}", f"long prompt: {process}", "seeded text")

    async def are_busy(slots: int) -> bool:
        return await in_queues(stack, "busy_slots", "thinker") == slots

    with stopped(*engines(stack)):  # so that the first answer does not end before the second begins
        in_text = [pairs.ask(name) for name in names[:2]]
        await wait_until(lambda: are_busy(2))
    await wait_until(lambda: all(asked.heard.token_ids for asked in in_text))
    async with held(stack, "thinker") as thinker:  # so that none of the answers ends, and none of the others begins
        assert not any(asked.is_over for asked in in_text)
        pid, engine = stack.pids[thinker], engine_of(stack.pids[thinker])
        holder = stack.pids[await feature_holder(stack)]
        before = await metric(stack, thinker, "thinker_features_seconds_count")

        async def has_both() -> bool:
            return await metric(stack, thinker, "thinker_features_seconds_count") == before + 2

        # The engine runs three requests at once: one of these begins its prefill when the engine continues, one waits.
        without_text = [pairs.ask(name) for name in names[2:]]
        await wait_until(has_both)
        os.kill(holder, signal.SIGKILL)
    os.kill(engine if process == "engine core" else pid, signal.SIGKILL)
    assert not any(asked.heard.token_ids for asked in without_text)
    await pairs.check([*in_text, *without_text], names)
