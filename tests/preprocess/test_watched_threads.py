"""The processor's threads: one job at a time each, and found when they hang."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.common.engine_watch import until_hung
from services.common.errors import ENGINE_FAILED, WorkerLost
from services.preprocess.watched_threads import WatchedThread, WatchedThreads
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

LIMIT_S = 0.3


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.engine_watch._EVERY_S", 0.02)


@pytest_asyncio.fixture
async def processor() -> AsyncIterator[WatchedThread]:
    async with WatchedThread("processor") as thread:
        yield thread


@pytest_asyncio.fixture
async def beside() -> AsyncIterator[WatchedThread]:
    async with WatchedThread("beside") as thread:
        yield thread


async def test_jobs_run_in_order_and_give_their_result_or_error(processor: WatchedThread) -> None:
    order: list[int] = []
    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(processor.run(order.append, number))
    assert order == [0, 1, 2, 3, 4]
    assert await processor.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await processor.run(divmod, 7, 0)


async def test_a_cancelled_job_that_has_not_begun_never_runs(processor: WatchedThread) -> None:
    go_on, ran = threading.Event(), threading.Event()
    first = asyncio.create_task(processor.run(go_on.wait))
    second = asyncio.create_task(processor.run(ran.set))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    go_on.set()
    assert await first
    await processor.answer()
    assert not ran.is_set()


async def test_a_cancelled_call_ends_once_its_work_has(processor: WatchedThread) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        go_on.wait()

    call = asyncio.create_task(processor.run(work))
    await asyncio.to_thread(begun.wait)
    call.cancel()
    done, _ = await asyncio.wait((call,), timeout=0.05)
    go_on.set()
    assert not done
    with pytest.raises(asyncio.CancelledError):
        await call


def work_until(enough: threading.Event) -> None:
    while not enough.is_set():
        pass


async def test_a_job_that_waits_for_ever_is_found_and_its_calls_fail(
    processor: WatchedThread, beside: WatchedThread
) -> None:
    """Another thread is at work meanwhile."""
    go_on, threads = threading.Event(), WatchedThreads((beside, processor))
    try:
        watch = asyncio.create_task(until_hung(threads, LIMIT_S, lambda _: None))
        calls: list[asyncio.Task[object]] = [asyncio.create_task(processor.run(go_on.wait)) for _ in range(2)]
        calls.append(asyncio.create_task(beside.run(work_until, go_on)))
        assert "hangs" in await asyncio.wait_for(watch, HANGS_AFTER_S)
        threads.abandon()
        for call, code in zip(calls, (ENGINE_FAILED, "worker_lost", ENGINE_FAILED), strict=True):
            with pytest.raises(WorkerLost) as failed:
                await call
            assert failed.value.code == code  # it may not be the fault of a job that never began
    finally:
        go_on.set()


async def test_a_job_that_works_for_long_is_no_hang(processor: WatchedThread, beside: WatchedThread) -> None:
    enough, ages_s = threading.Event(), list[float]()
    watch = asyncio.create_task(until_hung(WatchedThreads((beside, processor)), LIMIT_S, ages_s.append))
    call = asyncio.create_task(processor.run(work_until, enough))
    await wait_until(lambda: max(ages_s, default=0.0) > 3 * LIMIT_S)
    enough.set()
    await call
    assert not watch.done()
    watch.cancel()
