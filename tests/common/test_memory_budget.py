"""The memory budget: what is held never exceeds it, everyone comes to an end, and nobody is passed."""

from __future__ import annotations

import asyncio
import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from services.common.errors import TooLarge
from services.common.memory_budget import Hold, MemoryBudget, container_bytes
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


async def hold_until(
    budget: MemoryBudget, size: int, done: asyncio.Event, order: list[str], name: str, tenant: str = ""
) -> None:
    async with budget.take(size, what="A file", tenant=tenant):
        order.append(name)
        await done.wait()


async def test_a_take_waits_for_room_and_nobody_passes_it() -> None:
    budget, order = MemoryBudget(100), list[str]()
    events = [asyncio.Event() for _ in range(3)]
    async with asyncio.TaskGroup() as group:
        for name, size, event in zip(("first", "large", "small"), (60, 80, 10), events, strict=True):
            group.create_task(hold_until(budget, size, event, order, name))
        await wait_until(lambda: budget.waiting == 2)
        assert (order, budget.held_bytes, budget.waiting_bytes) == (["first"], 60, 90)
        events[0].set()
        await wait_until(lambda: budget.waiting == 0)
        assert order == ["first", "large", "small"]
        for event in events:
            event.set()
    assert (budget.held_bytes, budget.waiting_bytes, budget.holds) == (0, 0, 0)


async def test_tenants_take_turns() -> None:
    budget, order, done = MemoryBudget(10), list[str](), asyncio.Event()
    done.set()
    async with asyncio.TaskGroup() as group, budget.take(10, what="A file"):
        for i in range(3):
            group.create_task(hold_until(budget, 10, done, order, f"a{i}", "a"))
        await wait_until(lambda: budget.waiting == 3)
        group.create_task(hold_until(budget, 10, done, order, "b0", "b"))
        await wait_until(lambda: budget.waiting == 4)
    assert order == ["a0", "b0", "a1", "a2"]


async def test_what_can_never_fit_is_refused_at_once_with_the_numbers() -> None:
    budget = MemoryBudget(100)
    async with budget.take(100, what="A file"):
        with pytest.raises(TooLarge, match=r"The film needs 101 bytes .* at most 100") as caught:
            async with budget.take(101, what="The film", param="messages[0]"):
                pass
    assert caught.value.param == "messages[0]"


async def test_a_hold_grows_to_its_most_and_no_further() -> None:
    budget = MemoryBudget(100)
    async with budget.take(10, what="A body", most_bytes=50) as hold:
        await hold.grow(40)
        assert budget.held_bytes == 50
        with pytest.raises(TooLarge):
            await hold.grow(1)
        hold.shrink(50)
        assert budget.held_bytes == 0
        with pytest.raises(ValueError, match="cannot give"):
            hold.shrink(1)
    assert budget.holds == 0


async def test_growth_goes_before_new_holds() -> None:
    budget, order, done = MemoryBudget(100), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group, AsyncExitStack() as stack:
        grower = await stack.enter_async_context(budget.take(10, what="A body", most_bytes=60))
        other = AsyncExitStack()
        await other.enter_async_context(budget.take(50, what="A file"))
        group.create_task(hold_until(budget, 45, done, order, "new"))
        await wait_until(lambda: budget.waiting == 1)
        growing = group.create_task(grower.grow(50))
        await wait_until(lambda: budget.waiting == 2)
        await other.aclose()
        await growing
        assert order == []
        done.set()
        await stack.aclose()
    assert order == ["new"]


async def test_two_that_grow_do_not_wait_for_each_other() -> None:
    budget, ended = MemoryBudget(100), list[int]()

    async def grow(i: int) -> None:
        async with budget.take(40, what="A body", most_bytes=80) as hold:
            await hold.grow(40)
            ended.append(i)

    async with asyncio.timeout(HANGS_AFTER_S), asyncio.TaskGroup() as group:
        for i in range(2):
            group.create_task(grow(i))
    assert ended == [0, 1]


async def test_a_settled_hold_lets_others_begin() -> None:
    budget, order, done = MemoryBudget(100), list[str](), asyncio.Event()
    done.set()
    async with asyncio.TaskGroup() as group, budget.take(20, what="A body", most_bytes=100) as hold:
        waiting = group.create_task(other_grower(budget, order))
        await wait_until(lambda: budget.waiting == 1)
        hold.settle()
        await waiting
    assert order == ["grown"]


async def test_a_settled_hold_may_grow_by_what_it_kept() -> None:
    budget = MemoryBudget(100)
    async with budget.take(20, what="A body", most_bytes=100) as hold:
        hold.settle(30)
        hold.settle(60)  # a promise stays
        await hold.grow(30)
        with pytest.raises(TooLarge, match="at most 50"):
            await hold.grow(1)


async def test_a_hold_of_nothing_waits_for_nobody() -> None:
    budget = MemoryBudget(100)
    async with budget.take(100, what="A file"):
        async with budget.take(0, what="No file") as hold:
            await hold.grow(0)
        assert budget.holds == 1


async def other_grower(budget: MemoryBudget, order: list[str]) -> None:
    async with budget.take(30, what="A body", most_bytes=85) as hold:
        await hold.grow(50)
        order.append("grown")


async def test_a_cancelled_wait_takes_nothing_and_lets_the_next_one_go() -> None:
    budget, order, done = MemoryBudget(100), list[str](), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        async with budget.take(50, what="A file"):
            large = group.create_task(hold_until(budget, 60, done, order, "large"))
            group.create_task(hold_until(budget, 50, done, order, "next", "other"))
            await wait_until(lambda: budget.waiting == 2)
            large.cancel()
            await wait_until(lambda: order == ["next"])
        done.set()
    assert (budget.held_bytes, budget.waiting_bytes, budget.waiting) == (0, 0, 0)


async def test_metrics_show_what_is_held_and_awaited() -> None:
    budget = MemoryBudget(100, "shown")
    async with budget.take(30, what="A file"):
        shown = {
            state: REGISTRY.get_sample_value("antiphon_memory_budget_bytes", {"budget": "shown", "state": state})
            for state in ("total", "held", "waiting")
        }
    assert shown == {"total": 100, "held": 30, "waiting": 0}


@settings(max_examples=60, deadline=None)
@given(
    total=st.integers(50, 200),
    seed=st.integers(0, 2**32),
    claims=st.lists(st.tuples(st.integers(0, 60), st.integers(0, 120), st.sampled_from("abc")), max_size=20),
)
def test_whoever_stays_within_its_most_comes_to_its_end(
    total: int, seed: int, claims: list[tuple[int, int, str]]
) -> None:
    """Holders that grow, shrink and are cancelled at random: the budget holds, none waits for ever, nothing is left."""
    asyncio.run(_play(total, random.Random(seed), claims))


async def _play(total: int, chance: random.Random, claims: list[tuple[int, int, str]]) -> None:
    budget, peak = MemoryBudget(total), 0

    async def live(size: int, most: int, tenant: str) -> None:
        try:
            async with budget.take(size, what="A body", tenant=tenant, most_bytes=most) as hold:
                await _use(hold)
        except TooLarge:
            assert size > total

    async def _use(hold: Hold) -> None:
        nonlocal peak
        for _ in range(chance.randrange(6)):
            peak = max(peak, budget.held_bytes)
            assert 0 <= hold.size_bytes <= hold.most_bytes
            move = chance.random()
            if move < 0.5:
                await hold.grow(chance.randint(0, hold.most_bytes - hold.size_bytes))
            elif move < 0.7:
                hold.shrink(chance.randint(0, hold.size_bytes))
            elif move < 0.8:
                hold.settle()
            else:
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(live(*claim)) for claim in claims]
    for task in tasks:
        for _ in range(chance.randrange(3)):
            await asyncio.sleep(0)
        if chance.random() < 0.3:
            task.cancel()
    async with asyncio.timeout(HANGS_AFTER_S):
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(result is None or isinstance(result, asyncio.CancelledError) for result in results), results
    assert peak <= total
    assert (budget.held_bytes, budget.waiting_bytes, budget.waiting, budget.holds) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("memory.max", "1048576\n", 1 << 20),
        ("memory/memory.limit_in_bytes", "2097152\n", 2 << 20),
        ("memory.max", "max\n", None),
        ("memory/memory.limit_in_bytes", "9223372036854771712\n", None),
        ("other", "1\n", None),
    ],
)
def test_the_container_s_memory_is_its_cgroup_s_limit(
    tmp_path: Path, name: str, content: str, expected: int | None
) -> None:
    machine = container_bytes(tmp_path / "none")
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert container_bytes(tmp_path) == (expected or machine)


async def test_what_is_taken_at_once_never_waits_and_leaves_a_way_out() -> None:
    budget = MemoryBudget(100, "test")
    async with budget.take(40, what="A film", most_bytes=80) as film:
        with budget.take_at_once(what="A response") as response:
            assert response.grow_at_once(20)
            assert not response.grow_at_once(41)
            growing = asyncio.create_task(film.grow(40))
            await asyncio.sleep(0)
            assert growing.done()
            assert not response.grow_at_once(1)
            assert (budget.held_bytes, budget.holds) == (100, 2)
            response.shrink(10)
            assert response.grow_at_once(10)
        assert (budget.held_bytes, budget.holds) == (80, 1)
    assert budget.held_bytes == budget.holds == 0
