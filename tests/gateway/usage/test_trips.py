"""What goes together, and in which order."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
import uvloop

from services.common.errors import Unavailable
from services.gateway.usage.trips import Trips
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

LATER_S = 2 * HANGS_AFTER_S
"""Longer than any test waits: who has so much time goes only with others."""


class Carrier:
    """Notes each trip. `may_go` lets them arrive."""

    def __init__(self) -> None:
        self.trips: list[list[str]] = []
        self.may_go = asyncio.Event()
        self.may_go.set()
        self.fails = False

    async def send(self, questions: Sequence[str]) -> Sequence[str]:
        self.trips.append(list(questions))
        await self.may_go.wait()
        if self.fails:
            raise Unavailable("away")
        return [question.upper() for question in questions]


async def settled() -> None:
    """Let all tasks get as far as they can by themselves."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_what_has_time_goes_first_with_the_next_that_has_none() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 8)
    first, second = trips.put("a", within_s=LATER_S), trips.put("b", within_s=LATER_S)
    await settled()
    assert not carrier.trips
    assert await trips.put("c") == "C"
    assert (await first, await second) == ("A", "B")
    assert carrier.trips == [["a", "b", "c"]]


async def test_what_has_time_goes_by_itself_in_the_end() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 8)
    later = trips.put("later", within_s=LATER_S)
    await settled()
    assert await trips.put("soon", within_s=0.001) == "SOON"  # who has less time takes those along that have more
    assert await later == "LATER"
    assert carrier.trips == [["later", "soon"]]


def test_a_timer_that_rings_at_once_is_no_obstacle() -> None:
    """uvloop gives a plain handle for it, which does not know when it rings."""

    async def ask() -> None:
        carrier = Carrier()
        trips = Trips[str, str](carrier.send, 8)
        answers = [trips.put("soon", within_s=1e-6), trips.put("later", within_s=LATER_S)]
        assert await asyncio.gather(*answers) == ["SOON", "LATER"]
        assert carrier.trips == [["soon", "later"]]

    uvloop.run(ask())


async def test_hurry_lets_all_go_that_wait() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 2)
    waiting = [trips.put(name, within_s=LATER_S) for name in "abc"]
    await settled()
    trips.hurry()
    assert await asyncio.gather(*waiting) == ["A", "B", "C"]
    assert carrier.trips == [["a", "b"], ["c"]]
    trips.hurry()
    await settled()
    assert len(carrier.trips) == 2


async def test_what_has_time_does_not_go_because_a_trip_has_ended() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 8)
    carrier.may_go.clear()
    first = trips.put("first")
    await wait_until(lambda: carrier.trips)
    later = trips.put("later", within_s=LATER_S)
    await settled()
    carrier.may_go.set()
    await first
    await settled()
    assert carrier.trips == [["first"]]
    assert await trips.put("next") == "NEXT"
    assert await later == "LATER"
    assert carrier.trips == [["first"], ["later", "next"]]


async def test_who_left_before_its_trip_is_not_sent() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 8)
    left = trips.put("left", within_s=LATER_S)
    await settled()
    left.cancel()
    await asyncio.gather(left, return_exceptions=True)
    await trips.put("stays")
    assert carrier.trips == [["stays"]]


async def test_all_that_wait_fail_with_a_trip_that_fails() -> None:
    carrier = Carrier()
    trips = Trips[str, str](carrier.send, 8)
    carrier.may_go.clear()
    carrier.fails = True
    waiting = [trips.put("first")]
    await wait_until(lambda: carrier.trips)
    waiting += [trips.put("second"), trips.put("third", within_s=LATER_S)]
    await settled()
    carrier.may_go.set()
    assert all(isinstance(one, Unavailable) for one in await asyncio.gather(*waiting, return_exceptions=True))
    carrier.fails = False
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await trips.put("late", within_s=LATER_S)
    assert await trips.put("again") == "AGAIN"
