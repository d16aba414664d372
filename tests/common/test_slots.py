"""The worker's own record of its slots."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.common.errors import Gone
from services.common.queues.slots import Slots


def test_an_unopened_lease_is_freed_after_the_grant_timeout() -> None:
    now = [100.0]
    freed: list[float] = []
    slots = Slots(1, 5.0, lambda: now[0], lambda: freed.append(now[0]))
    (lease,) = slots.offers(9)
    slots.grant(lease)
    assert (slots.free, slots.expire()) == (0, 5.0)
    now[0] = 105.0
    assert slots.expire() is None
    assert (slots.free, freed) == (1, [105.0])
    with pytest.raises(Gone), slots.open(lease):
        pass
    assert slots.offers(9) != [lease]


async def test_a_call_may_arrive_before_its_grant() -> None:
    slots = Slots(1, 5.0, lambda: 0.0, lambda: None)
    (lease,) = slots.offers(1)
    with slots.open(lease):
        slots.grant(lease)
        assert (slots.free, slots.busy) == (0, 1)
    assert (slots.free, slots.busy) == (1, 0)
    slots.grant(lease)
    assert slots.free == 1


async def test_a_lease_granted_again_while_open_stays_open() -> None:
    slots = Slots(1, 5.0, lambda: 0.0, lambda: None)
    (lease,) = slots.offers(1)
    with slots.open(lease):
        slots.give_back(lease)
        assert slots.busy == 1


async def test_progress_is_the_time_of_open_leases_only() -> None:
    now = [1e6]
    slots = Slots(3, 60.0, lambda: now[0], lambda: None)
    first, second, granted = slots.offers(3)
    slots.grant(granted)
    now[0] += 5
    assert slots.progress_s == 0
    with slots.open(first):
        now[0] += 10
        with slots.open(second):
            now[0] += 2
            assert slots.progress_s == 14
        assert slots.progress_s == 12
    assert slots.progress_s == 0


@given(
    total=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(("grant", "open", "close", "give_back", "wait")), st.integers(0, 99)), max_size=60
    ),
)
async def test_slots_are_free_or_busy_and_each_lease_opens_once(total: int, steps: list[tuple[str, int]]) -> None:
    now = [0.0]
    slots = Slots(total, 3.0, lambda: now[0], lambda: None)
    seen: list[str] = slots.offers(total)
    opened: dict[str, ExitStack] = {}
    ever_opened: set[str] = set()
    for step, choice in steps:
        lease = seen[choice % len(seen)]
        if step == "grant":
            slots.grant(lease)
        elif step == "open":
            call = ExitStack()
            try:
                call.enter_context(slots.open(lease))
            except Gone:
                pass
            else:
                assert lease not in ever_opened
                ever_opened.add(lease)
                opened[lease] = call
        elif step == "close" and opened:
            opened.pop(list(opened)[choice % len(opened)]).close()
        elif step == "give_back":
            slots.give_back(lease)
        else:
            now[0] += choice / 30
            slots.expire()
        seen += [offer for offer in slots.offers(total) if offer not in seen]
        assert slots.free + slots.busy == total
        assert slots.busy >= len(opened)
        assert len(slots.offers(total)) == slots.free
    for call in opened.values():
        call.close()
    now[0] += 10
    slots.expire()
    assert (slots.free, slots.busy) == (total, 0)


async def test_a_call_may_free_its_slot_and_go_on() -> None:
    slots = Slots(1, 5.0, lambda: 0.0, lambda: None)
    (lease,) = slots.offers(1)
    with slots.open(lease) as free_early:
        assert (slots.free, slots.busy, slots.idle) == (0, 1, False)
        free_early()
        free_early()
        assert (slots.free, slots.busy, slots.idle) == (1, 0, False)
        (other,) = slots.offers(9)
        with slots.open(other):
            assert (slots.free, slots.busy) == (0, 1)
        assert slots.take_holds()[0] == 2
    assert (slots.free, slots.busy, slots.idle) == (1, 0, True)
    assert slots.take_holds()[0] == 0
