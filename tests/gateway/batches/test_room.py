"""How many lines begin while others, and lines before them, are on their way through the stages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from services.common.queues.tickets import QueueName, QueueStats
from services.common.stages import TALKER, THINKER
from services.gateway.batches import room as rooms
from services.gateway.batches.room import Room

THINKERS, TALKERS = QueueName(THINKER, "m"), QueueName(TALKER, "m")
BOTH = THINKERS, TALKERS
QUIET_S = 2.0


def stats(slots: int, busy: int = 0, batch_busy: int = 0) -> QueueStats:
    return QueueStats(
        depth=0,
        oldest_wait_s=0.0,
        batch_depth=0,
        batch_busy=batch_busy,
        yielding=0,
        others_away_s=QUIET_S,
        workers=1,
        slots=slots,
        busy=busy,
        draining_workers=0,
        draining_slots=0,
        draining_busy=0,
        arrivals_per_s=0.0,
        refusals_per_s=0.0,
        grants_per_s=0.0,
        hold_s=0.0,
        woken=False,
        known=True,
    )


class Stages:
    """Queues whose stats a test sets: all slots are free at first."""

    def __init__(self, slots: int) -> None:
        self.stats_of = {queue: stats(slots) for queue in BOTH}
        self.meanwhile: Callable[[], None] = lambda: None
        """Called while the stats are on their way."""

    async def stats(self, queue: QueueName) -> QueueStats:
        found = self.stats_of[queue]
        self.meanwhile()
        return found


@pytest.fixture(autouse=True)
def look_always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_LOOK_S", 0.0)


async def test_a_line_that_is_still_prepared_has_its_place_in_the_next_stage() -> None:
    """However often the stage, which does not know it yet, is looked at."""
    stages = Stages(slots=4)
    room = Room(stages, 0.5, 0.1, QUIET_S)
    entered = [await room.enter_now((THINKERS,), name) for name in "abc"]
    assert entered == [True, True, False]
    stages.stats_of[THINKERS] = stats(slots=4, busy=1, batch_busy=1)
    room.note_ticket(THINKERS, "a")
    assert not await room.enter_now((THINKERS,), "c")
    room.leave("b")  # it failed before it came there
    assert await room.enter_now((THINKERS,), "c")
    assert not await room.enter_now((THINKERS,), "d")


async def test_a_spoken_line_has_a_place_in_both_stages() -> None:
    stages = Stages(slots=2)
    room = Room(stages, 1.0, 0.1, QUIET_S)
    assert [await room.enter_now(BOTH, name) for name in "ab"] == [True, True]
    for name in "ab":
        room.note_ticket(THINKERS, name)
    assert await room.enter_now((THINKERS,), "text")  # both have ended there
    assert not await room.enter_now((TALKERS,), "speech")
    room.leave("a")
    assert await room.enter_now((TALKERS,), "speech")


async def test_a_ticket_counts_until_the_stage_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_LOOK_S", 3600.0)
    room = Room(Stages(slots=2), 0.5, 0.1, QUIET_S)
    assert await room.enter_now((THINKERS,), "a")
    room.note_ticket(THINKERS, "a")
    assert not await room.enter_now((THINKERS,), "b")
    room.note_ticket(THINKERS, "another")  # of a request that is no line


async def test_a_ticket_that_comes_while_the_stage_is_looked_at_counts() -> None:
    stages = Stages(slots=2)
    room = Room(stages, 0.5, 0.1, QUIET_S)
    assert await room.enter_now((THINKERS,), "a")
    stages.meanwhile = lambda: room.note_ticket(THINKERS, "a")
    assert not await room.enter_now((THINKERS,), "b")


async def test_nothing_is_left_of_lines_that_ended() -> None:
    room = Room(Stages(slots=2), 0.5, 0.1, QUIET_S)
    for number in range(100):
        name = f"line-{number}"
        assert await room.enter_now(BOTH, name)
        room.leave(name)
    assert await room.enter_now(BOTH, "last")


IDLE = stats(slots=32)
BESIDE = replace(IDLE, others_away_s=0.0)


async def lines_in(thinker: QueueStats, talker: QueueStats = IDLE) -> int:
    """Return how many speaking lines get room."""
    stages, lines = Stages(slots=32), 0
    stages.stats_of = {THINKERS: thinker, TALKERS: talker}
    room = Room(stages, 0.75, 0.1, QUIET_S)
    while await room.enter_now(BOTH, f"line-{lines}"):
        lines += 1
    return lines


async def test_alone_lines_have_their_share_of_all_slots() -> None:
    assert await lines_in(IDLE) == 24
    assert await lines_in(replace(IDLE, busy=20, batch_busy=20)) == 4


async def test_beside_others_lines_have_a_part_of_what_those_hold_and_one_at_least() -> None:
    assert await lines_in(replace(BESIDE, busy=20)) == 2
    assert await lines_in(replace(BESIDE, busy=21, batch_busy=1)) == 1
    assert await lines_in(replace(BESIDE, busy=1)) == 1  # it waits for its time in the queue
    assert await lines_in(replace(BESIDE, busy=1, depth=1, batch_depth=1)) == 0
    assert await lines_in(replace(BESIDE, depth=1)) == 1
    assert await lines_in(replace(IDLE, others_away_s=QUIET_S / 2)) == 1
    assert await lines_in(IDLE, replace(BESIDE, busy=20)) == 2  # in any of their stages
