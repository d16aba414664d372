"""A real engine that hangs, and one that has much to do."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from services.common.engine_watch import until_hung
from services.common.errors import ENGINE_FAILED, WorkerLost
from services.thinker.engine.worker_processes import workers_beside_the_core
from services.thinker.service import Thinker, running_thinker
from services.thinker.settings import ThinkerSettings
from tests.fixtures.processes import descendants, has_ended
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.thinker.collect import collect
from tests.thinker.conftest import Prepare
from tests.thinker.prepared import Owner, Prepared
from tests.thinker.served_core import served_core

pytestmark = pytest.mark.asyncio(loop_scope="session")
LIMIT_S = 0.3


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.engine_watch._EVERY_S", 0.02)


@asynccontextmanager
async def doomed(settings: ThinkerSettings, owner: Owner) -> AsyncGenerator[Thinker]:
    """A thinker of the test's own, which ends with it."""
    with served_core(workers_beside_the_core(settings)) as core:
        async with running_thinker(settings, owner, "thinker:2", core) as running:
            yield running


def core_of(thinker: Thinker) -> int:
    (core,) = (process.pid for process in thinker.engine._processes)  # pyright: ignore[reportPrivateUsage]
    return core


def workers_of(core: int) -> list[int]:
    return [pid for pid in descendants(core) if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM")]


@pytest.mark.parametrize("split", [{}, {"tensor_parallel_size": 2}], ids=["core", "one of two workers"])
async def test_a_stopped_engine_is_found_and_its_calls_fail_as_of_the_engine(
    split: dict[str, int], settings: ThinkerSettings, owner: Owner, prepared: Prepare
) -> None:
    """One call is in its decode, and one is not admitted yet, when a process of the engine stops."""
    ages_s: list[float] = []
    sampling = {"max_tokens": 4000, "ignore_eos": True}
    async with doomed(settings.model_copy(update=split), owner) as thinker:
        watch = asyncio.create_task(until_hung(thinker.engine, LIMIT_S, ages_s.append))
        running = asyncio.create_task(collect(thinker, prepared("text").request("running", sampling=sampling)))
        await wait_until(lambda: thinker.engine.unfinished_requests == 1 and len(ages_s) > 3)
        core = core_of(thinker)
        workers = workers_of(core)
        assert len(workers) == split.get("tensor_parallel_size", 0)
        os.kill(workers[-1] if split else core, signal.SIGSTOP)
        waiting = asyncio.create_task(collect(thinker, prepared("text").request("waiting", sampling=sampling)))
        assert "the engine hangs" in await asyncio.wait_for(watch, HANGS_AFTER_S)
        assert not thinker.engine.died.is_set()
        thinker.engine.abandon()
        for call in (running, waiting):
            with pytest.raises(WorkerLost) as failed:
                await asyncio.wait_for(call, HANGS_AFTER_S)
            assert failed.value.code == ENGINE_FAILED
        await asyncio.wait_for(thinker.engine.died.wait(), HANGS_AFTER_S)
        await wait_until(lambda: all(map(has_ended, (core, *workers))))


async def test_a_core_that_hangs_has_ended_once_its_thinker_is_closed(settings: ThinkerSettings, owner: Owner) -> None:
    """Only then is its scratch folder free to be removed."""
    async with doomed(settings, owner) as thinker:
        core = core_of(thinker)
        os.kill(core, signal.SIGSTOP)
    assert has_ended(core)


async def test_a_long_prompt_may_take_a_longer_step(thinker: Thinker) -> None:
    await thinker.engine.answer()
    usual_s = thinker.engine.longest_step_s
    assert usual_s > 0  # the warm-up measured it
    long = Prepared([3 + 11 * i % 1900 for i in range(4090)])
    async with asyncio.TaskGroup() as group:
        asked = group.create_task(collect(thinker, long.request("long", sampling={"max_tokens": 2}, tenant="hang")))
        await wait_until(lambda: thinker.engine.longest_step_s > 3.9 * usual_s)  # twice as long as the measured one
        assert not asked.done()
    assert thinker.engine.longest_step_s > 3.9 * usual_s
    await thinker.engine.answer()
    assert thinker.engine.longest_step_s == usual_s
