"""A talker is lost, or the hidden states that it needs."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack

from tests.e2e.questions import Client
from tests.e2e.workers import busy_worker, busy_workers, engines, in_queues, servers, stopped
from tests.fixtures.wait import wait_until


async def test_speech_survives_the_loss_of_its_talker_before_and_after_its_first_frame(pairs: Client) -> None:
    stack, names = pairs.stack, ("long speech", "short speech: before its first frame")
    spoken = pairs.ask(names[0])
    await wait_until(lambda: spoken.heard.pcm)

    async def both_are_granted() -> bool:
        return await in_queues(stack, "busy_slots", "talker") == 2

    with stopped(*engines(stack)):  # so that the second answer has no token to speak
        silent = pairs.ask(names[1])
        await wait_until(both_are_granted)
        with stopped(*servers(stack, "talker")):
            assert not spoken.is_over
            assert not silent.heard.pcm
            for talker in await busy_workers(stack, "talker"):  # one has both, or each has one
                os.kill(stack.pids[talker], signal.SIGKILL)
    await pairs.check([spoken, silent], names)


async def test_hidden_states_that_are_lost_with_their_thinker_are_made_again(pairs: Client) -> None:
    """The text is over, and its thinker dies before the talker has pulled the hidden states."""
    stack, name = pairs.stack, "speech of media: hidden states"

    async def are_busy(thinkers: int, talkers: int) -> bool:
        busy = [await in_queues(stack, "busy_slots", stage) for stage in ("thinker", "talker")]
        return busy == [thinkers, talkers]

    with ExitStack() as talkers:
        with stopped(*engines(stack)):
            asked = pairs.ask(name)
            await wait_until(lambda: are_busy(1, 1))
            talkers.enter_context(stopped(*servers(stack, "talker")))
            thinker = await busy_worker(stack, "thinker")
        await wait_until(lambda: are_busy(0, 1))
        os.kill(stack.pids[thinker], signal.SIGKILL)
    await pairs.check([asked], [name])
