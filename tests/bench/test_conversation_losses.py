"""Real losses of workers and of a gateway in the middle of answers: the conversations go on."""

from __future__ import annotations

from bench.conversation_losses.figures import figures, problems
from bench.conversation_losses.run import Options, run

CONVERSATIONS = 3


async def test_conversations_go_on_after_their_worker_and_their_gateway_are_killed() -> None:
    said: list[str] = []
    result = await run(Options(CONVERSATIONS, at_once=CONVERSATIONS, seed=1, when_kept=True), said.append)
    assert problems(result) == [], said
    told = figures(result)
    assert told["workers_lost"] == {"preprocess": 1, "thinker": 1, "talker": 1}
    assert told["gateways_lost"] == 1
    assert told["without_a_problem"] == CONVERSATIONS
