"""Failed calls to Redis: which errors they raise, and that they are counted."""

from __future__ import annotations

import asyncio
import socket

import pytest
from prometheus_client import REGISTRY

from services.common.errors import Unavailable
from services.common.redis_client import TIMEOUT_S, connect, redis_call


def errors(kind: str) -> float:
    return REGISTRY.get_sample_value("antiphon_redis_errors_total", {"kind": kind}) or 0.0


async def test_an_unreachable_redis_is_unavailable_and_counted() -> None:
    with socket.socket() as taken:  # bound but never listening: nothing answers there
        taken.bind(("127.0.0.1", 0))
        redis = connect(f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
        before = errors("away")
        with pytest.raises(Unavailable):
            async with redis_call():
                await redis.ping()
        await redis.aclose()
    assert errors("away") == before + 1


async def test_a_refused_command_is_counted_separately(valkey_url: str) -> None:
    redis = connect(valkey_url)
    before = errors("away"), errors("refused")
    with pytest.raises(Unavailable):
        async with redis_call():
            await redis.execute_command("NO-SUCH-COMMAND")
    await redis.aclose()
    assert (errors("away"), errors("refused")) == (before[0], before[1] + 1)


async def test_a_late_call_is_unavailable_and_its_task_goes_on() -> None:
    before = errors("away")
    with pytest.raises(Unavailable):
        async with redis_call(0.01 - TIMEOUT_S):
            await asyncio.Event().wait()
    await asyncio.sleep(0)
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()
    assert errors("away") == before + 1


async def test_a_call_that_is_cancelled_as_it_is_late_stays_cancelled() -> None:
    async def call() -> None:
        async with redis_call(0.01 - TIMEOUT_S):
            try:
                await asyncio.Event().wait()
            finally:
                task.cancel()

    task = asyncio.create_task(call())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_answer_is_not_counted(valkey_url: str) -> None:
    redis = connect(valkey_url)
    before = errors("away"), errors("refused")
    async with redis_call():
        assert await redis.ping()
    await redis.aclose()
    assert (errors("away"), errors("refused")) == before


@pytest.mark.parametrize("url", ["redis://r?no_such=1", "unix:///r?no_such=1", "redis+sentinel://r:1/m?no_such=1"])
def test_an_unknown_option_is_refused_before_sending(url: str) -> None:
    with pytest.raises(ValueError, match="no_such"):
        connect(url)
