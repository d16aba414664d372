"""A preprocess worker is lost while it prepares a prompt, and before a thinker has pulled its features."""

from __future__ import annotations

import os
import signal

from tests.e2e.questions import Client
from tests.e2e.workers import busy_worker, feature_holder, in_queues, servers, stopped
from tests.fixtures.processes import descendants
from tests.fixtures.wait import wait_until


async def test_a_worker_that_is_lost_while_it_prepares_is_replaced(pairs: Client) -> None:
    stack, name = pairs.stack, "media: while it is prepared"
    decoders = [child for worker in servers(stack, "preprocess") for child in descendants(worker)]
    with stopped(*decoders):
        asked = pairs.ask(name)
        os.kill(stack.pids[await busy_worker(stack, "preprocess")], signal.SIGKILL)
    await pairs.check([asked], [name])


async def test_features_that_are_lost_before_a_thinker_pulls_them_are_prepared_again(pairs: Client) -> None:
    stack, name = pairs.stack, "media: before it is pulled"

    async def waits_for_a_thinker() -> bool:
        return await in_queues(stack, "depth_tickets", "thinker") == 1

    with stopped(*servers(stack, "thinker")):  # they take no ticket
        asked = pairs.ask(name)
        await wait_until(waits_for_a_thinker)
        os.kill(stack.pids[await feature_holder(stack)], signal.SIGKILL)
    await pairs.check([asked], [name])
