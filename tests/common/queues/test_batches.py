"""What goes together in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from services.common.queues.batches import Batches
from tests.fixtures.wait import wait_until


async def test_what_nobody_waits_for_is_gathered_into_one_call() -> None:
    sent: list[Sequence[int]] = []

    async def send(items: Sequence[int]) -> Sequence[int]:
        sent.append(items)
        return items

    batches = Batches(send, 16, gather_s=0.05)
    running = asyncio.create_task(batches.run())
    answers = [batches.submit(1)]
    for number in (2, 3):
        await asyncio.sleep(0)  # the first one would have gone by now
        await asyncio.sleep(0)
        answers.append(batches.submit(number))
    await wait_until(lambda: all(answer.done() for answer in answers))
    running.cancel()
    assert [answer.result() for answer in answers] == [1, 2, 3]
    assert sent == [[1, 2, 3]]
