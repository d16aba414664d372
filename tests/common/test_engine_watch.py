"""The engine watch: it tells a hung engine from a slow one."""

from __future__ import annotations

import asyncio
import time

import pytest

from services.common.engine_watch import until_hung
from tests.fixtures.wait import wait_until

LIMIT_S = 0.2


class Engine:
    """An engine that answers once the test lets it."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.asked = 0
        self.ages_s: list[float] = []

    async def answer(self) -> None:
        self.asked += 1
        await self.may_answer.wait()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.engine_watch._EVERY_S", 0.02)


async def test_an_engine_that_stops_answering_is_detected() -> None:
    engine = Engine()
    engine.may_answer.set()
    watch = asyncio.create_task(until_hung(engine.answer, LIMIT_S, engine.ages_s.append))
    await wait_until(lambda: engine.asked > 3)
    assert not watch.done()
    engine.may_answer.clear()
    await asyncio.wait_for(watch, 10)
    assert max(engine.ages_s) > LIMIT_S


async def test_an_engine_may_take_its_longest_step_plus_the_limit() -> None:
    engine = Engine()
    watch = asyncio.create_task(until_hung(engine.answer, 10.0, engine.ages_s.append))
    await wait_until(lambda: max(engine.ages_s, default=0.0) > LIMIT_S)  # a slow step
    assert not watch.done()
    engine.may_answer.set()
    await wait_until(lambda: engine.asked > 2)
    assert not watch.done()
    watch.cancel()


async def test_a_suspended_watch_does_not_blame_the_engine() -> None:
    engine = Engine()
    watch = asyncio.create_task(until_hung(engine.answer, LIMIT_S, engine.ages_s.append))
    await wait_until(lambda: engine.ages_s)
    time.sleep(2 * LIMIT_S)  # noqa: ASYNC251  # the whole process, as on a suspended machine
    seen = len(engine.ages_s)
    await wait_until(lambda: len(engine.ages_s) > seen + 1)
    engine.may_answer.set()
    await wait_until(lambda: engine.asked > 2)
    assert not watch.done()
    watch.cancel()


async def test_an_error_of_the_engine_ends_the_watch() -> None:
    async def lost() -> None:
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await until_hung(lost, LIMIT_S, lambda _: None)
