"""Whose file is decoded next. Only the order counts here; nothing is decoded."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from services.preprocess.decoding.price import FLOOR_S, OVERRUN, SMALL_S, allowed_s, price_s
from services.preprocess.decoding.schedule import Lane, Place, Schedule, make_places
from services.preprocess.media.work import Work


class Line:
    """Files that wait in a schedule, and the order in which they get their places."""

    def __init__(self, places: Sequence[Place]) -> None:
        self.schedule = Schedule(places)
        self.order: list[str] = []
        self.taken: list[Place] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def wait(self, name: str, lane: Lane = Lane.SMALL, size: float = 1.0, cost: float = 1.0) -> None:
        """Let a file of the tenant `name[0]` wait. It costs its tenant `cost` once it has a place."""

        async def run() -> None:
            place = await self.schedule.take(lane, name[0], size)
            self.order.append(name)
            self.schedule.charge(name[0], cost)
            self.taken.append(place)

        self.tasks.append(asyncio.create_task(run()))
        await asyncio.sleep(0)

    async def serve(self) -> list[str]:
        """Give places back until nobody waits. Return the order of all files."""
        await _turn()
        while self.taken:
            self.schedule.release(self.taken.pop(0))
            await _turn()
        await asyncio.gather(*self.tasks)
        return self.order


async def _turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_small_files_do_not_wait_for_large_ones_of_others():
    line = Line(make_places(2))
    for film in ("a1", "a2", "a3", "a4"):
        await line.wait(film, Lane.LARGE)
    await line.wait("b1")
    await _turn()
    assert line.order == ["a1", "b1"]
    assert line.taken[0].lanes == (Lane.LARGE, Lane.SMALL)
    assert line.taken[1].lanes == (Lane.SMALL,)
    assert await line.serve() == ["a1", "b1", "a2", "a3", "a4"]


async def test_tenants_take_turns_by_what_their_files_cost():
    line = Line(make_places(1))
    await line.wait("x")
    for i in range(4):
        await line.wait(f"a{i}", cost=1.0)
    for i in range(2):
        await line.wait(f"b{i}", cost=3.0)
    assert await line.serve() == ["x", "a0", "b0", "a1", "a2", "a3", "b1"]


async def test_a_tenants_smallest_file_goes_first():
    line = Line(make_places(1))
    await line.wait("x")
    for name, size in (("a-large", 9.0), ("a-small", 1.0), ("a-middle", 5.0)):
        await line.wait(name, size=size)
    assert await line.serve() == ["x", "a-small", "a-middle", "a-large"]


async def test_a_pause_earns_no_credit():
    line = Line(make_places(1))
    await line.wait("x")
    for i in range(6):
        await line.wait(f"a{i}")
    for _ in range(3):
        line.schedule.release(line.taken.pop(0))
        await _turn()
    for i in range(3):
        await line.wait(f"b{i}")
    assert await line.serve() == ["x", "a0", "a1", "a2", "b0", "a3", "b1", "a4", "b2", "a5"]


async def test_a_cancelled_file_leaves_the_line():
    line = Line(make_places(1))
    await line.wait("x")
    await line.wait("a")
    await line.wait("b")
    line.tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await line.tasks.pop(1)
    assert await line.serve() == ["x", "b"]


async def test_a_place_that_nobody_wants_any_more_goes_to_the_next_file():
    line = Line(make_places(1))
    await line.wait("x")
    await line.wait("a")
    await line.wait("b")
    line.schedule.release(line.taken.pop())
    line.tasks[1].cancel()  # it has its place, and has not yet woken
    await _turn()
    assert line.order == ["x", "b"]
    line.tasks.pop(1)
    await line.serve()


async def test_a_file_that_is_cancelled_as_a_place_comes_back_does_not_lose_it():
    line = Line(make_places(1))
    await line.wait("x")
    await line.wait("a")
    await line.wait("b")
    line.tasks[1].cancel()
    line.schedule.release(line.taken.pop())  # it has not yet woken
    await _turn()
    assert line.order == ["x", "b"]
    with pytest.raises(asyncio.CancelledError):
        await line.tasks.pop(1)
    await line.serve()


def test_the_price_follows_pixels_frames_and_samples():
    picture, photograph = Work(pixels=64 * 64), Work(pixels=12_000_000)
    film = Work(film_pixels=640 * 1920 * 1080, resized=64 * 1920 * 1080)
    hour = Work(samples=3600 * 48_000 * 2)
    assert price_s(picture) < price_s(photograph) < SMALL_S < price_s(hour) < price_s(film)
    assert price_s(Work(film_pixels=2 * film.film_pixels, resized=2 * film.resized)) == 2 * price_s(film)


def test_a_job_may_take_more_than_its_price_within_the_operators_bound():
    assert allowed_s(2.0, 120.0) == FLOOR_S + 2 * OVERRUN
    assert allowed_s(50.0, 120.0) == 120.0
