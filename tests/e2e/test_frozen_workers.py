"""Workers stand still, as on a node that vanishes: they accept what comes and answer nothing."""

from __future__ import annotations

from tests.e2e.questions import Client
from tests.e2e.workers import all_ready, held, stopped
from tests.fixtures.wait import wait_until


async def test_answers_survive_workers_that_stand_still(pairs: Client) -> None:
    """A thinker and a talker in mid-answer. They continue later, and find that their calls are over."""
    stack, names = pairs.stack, ("long text", "long speech")
    asked = [pairs.ask(name) for name in names]
    await wait_until(lambda: asked[0].heard.token_ids and asked[1].heard.pcm)
    async with held(stack, "thinker") as thinker, held(stack, "talker") as talker:
        assert not any(one.is_over for one in asked)
        frozen = [stack.pids[thinker], stack.pids[talker]]
    with stopped(*frozen):
        await pairs.check(asked, names)
    await all_ready(stack)
    assert set(frozen) <= set(stack.pids.values())
