"""How many lines have room, by the numbers of their stages' queues."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from services.common.queues.tickets import QueueName, QueueStats
from services.gateway.batches.room import Room

THINKER, TALKER = QueueName("thinker", "omni"), QueueName("talker", "omni")
QUIET_S = 2.0
IDLE = QueueStats(
    depth=0, oldest_wait_s=0, batch_depth=0, batch_busy=0, yielding=0, oldest_unyielding_s=0, others_away_s=QUIET_S,
    workers=4, slots=32, busy=0, draining_workers=0, draining_slots=0, draining_busy=0, arrivals_per_s=0,
    refusals_per_s=0, grants_per_s=0, hold_s=0, woken=False, known=True,
)  # fmt: skip


class Numbers:
    """Queues with the numbers that a test says. They do not see the lines that have room."""

    def __init__(self, thinker: QueueStats, talker: QueueStats = IDLE) -> None:
        self._stats = {THINKER: thinker, TALKER: talker}

    async def stats(self, queue: QueueName) -> QueueStats:
        return self._stats[queue]


def room_in(thinker: QueueStats, talker: QueueStats = IDLE) -> Room:
    return Room(Numbers(thinker, talker), 0.75, 0.1, QUIET_S)


async def lines_in(thinker: QueueStats, talker: QueueStats = IDLE) -> int:
    """Return how many speaking lines get room."""
    room, lines = room_in(thinker, talker), 0
    while await room.enter_now((THINKER, TALKER)):
        lines += 1
    return lines


async def test_alone_lines_have_their_share_of_all_slots() -> None:
    assert await lines_in(IDLE) == 24
    assert await lines_in(replace(IDLE, busy=20, batch_busy=20)) == 4


async def test_beside_others_lines_have_a_part_of_what_those_hold_and_one_at_least() -> None:
    assert await lines_in(replace(IDLE, busy=20, others_away_s=0)) == 2
    assert await lines_in(replace(IDLE, busy=21, batch_busy=1, others_away_s=0)) == 1
    assert await lines_in(replace(IDLE, busy=1, others_away_s=0)) == 1  # it waits for its time in the queue
    assert await lines_in(replace(IDLE, busy=1, depth=1, batch_depth=1, others_away_s=0)) == 0
    assert await lines_in(replace(IDLE, depth=1, others_away_s=0)) == 1
    assert await lines_in(replace(IDLE, others_away_s=QUIET_S / 2)) == 1
    assert await lines_in(IDLE, replace(IDLE, busy=20, others_away_s=0)) == 2  # in any of their stages


async def test_a_line_has_its_room_until_it_ends() -> None:
    room = room_in(replace(IDLE, busy=1, others_away_s=0))
    assert await room.enter_now((THINKER,))
    waiting = asyncio.create_task(room.enter((THINKER,)))
    await asyncio.sleep(0)
    assert not await room.enter_now((THINKER,))
    room.leave((THINKER,))
    await waiting
