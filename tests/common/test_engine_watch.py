"""The engine watch: it tells a hung engine from a slow one, and ends the worker of a hung one."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from antiphon.v1 import common_pb2, thinker_pb2_grpc
from services.common.channels import open_channel
from services.common.engine_watch import fail_when_hung, until_hung
from services.common.errors import ENGINE_FAILED, WorkerLost
from services.common.grpc_errors import error_from_rpc
from services.common.queues import QueueClient, QueueName, SlotKeeper
from services.common.redis_client import connect
from services.common.server import ServiceFailedError, ServiceHost
from services.common.settings import ServiceSettings
from services.common.worker import taking_tickets
from tests.fixtures.processes import state
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

LIMIT_S = 0.2
QUEUE = QueueName("thinker", "hung")


class Engine:
    """An engine that answers once the test lets it."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.abandoned = asyncio.Event()
        self.longest_step_s = 0.0
        self.asked = 0
        self.ages_s: list[float] = []

    async def answer(self) -> None:
        self.asked += 1
        await self.may_answer.wait()

    def abandon(self) -> None:
        self.abandoned.set()


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.common.engine_watch._EVERY_S", 0.02)


async def test_an_engine_that_stops_answering_is_detected() -> None:
    engine = Engine()
    engine.may_answer.set()
    watch = asyncio.create_task(until_hung(engine, LIMIT_S, engine.ages_s.append))
    await wait_until(lambda: engine.asked > 3)
    assert not watch.done()
    engine.may_answer.clear()
    assert "hangs" in await asyncio.wait_for(watch, HANGS_AFTER_S)
    assert max(engine.ages_s) > LIMIT_S


async def test_an_engine_may_take_its_longest_step_plus_the_limit() -> None:
    engine = Engine()
    watch = asyncio.create_task(until_hung(engine, 10.0, engine.ages_s.append))
    await wait_until(lambda: max(engine.ages_s, default=0.0) > LIMIT_S)  # a slow step
    assert not watch.done()
    engine.may_answer.set()
    await wait_until(lambda: engine.asked > 2)
    assert not watch.done()
    watch.cancel()


async def test_an_engine_may_take_what_its_work_needs_plus_the_limit() -> None:
    engine = Engine()
    engine.longest_step_s = 3600.0
    watch = asyncio.create_task(until_hung(engine, LIMIT_S, engine.ages_s.append))
    await wait_until(lambda: engine.ages_s)
    engine.longest_step_s = 0.0  # the request was cancelled, but its step is still under way
    await wait_until(lambda: engine.ages_s[-1] > 2 * LIMIT_S)
    assert not watch.done()
    engine.may_answer.set()
    await wait_until(lambda: engine.asked > 2)
    engine.may_answer.clear()
    assert "may need 0.0 s" in await asyncio.wait_for(watch, HANGS_AFTER_S)


async def test_a_suspended_watch_does_not_blame_the_engine() -> None:
    engine = Engine()
    watch = asyncio.create_task(until_hung(engine, LIMIT_S, engine.ages_s.append))
    await wait_until(lambda: engine.ages_s)
    time.sleep(2 * LIMIT_S)  # noqa: ASYNC251  # the whole process, as on a suspended machine
    seen = len(engine.ages_s)
    await wait_until(lambda: len(engine.ages_s) > seen + 1)
    engine.may_answer.set()
    await wait_until(lambda: engine.asked > 2)
    assert not watch.done()
    watch.cancel()


async def test_an_error_of_the_engine_ends_the_watch() -> None:
    class Lost(Engine):
        async def answer(self) -> None:
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await until_hung(Lost(), LIMIT_S, lambda _: None)


class Waiting(thinker_pb2_grpc.ThinkerServicer):
    """Its calls wait for the engine, and fail with it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.waits = asyncio.Event()

    async def Fetch(self, request: common_pb2.FetchRequest, context: Any) -> AsyncIterator[common_pb2.FetchResponse]:
        self.waits.set()
        await self.engine.abandoned.wait()
        raise WorkerLost("the engine hangs", code=ENGINE_FAILED)
        yield


class Worker:
    """A worker in the test's process, with Redis and a real server."""

    def __init__(self, redis_url: str) -> None:
        self.engine = Engine()
        self.servicer = Waiting(self.engine)  # pyright: ignore[reportAbstractUsage]  # the others are not called
        self.address = ""
        self.has_failed = False
        self._redis_url = redis_url

    async def run(self) -> None:
        redis = connect(self._redis_url)
        try:
            async with ServiceHost(ServiceSettings(redis_url=self._redis_url), "antiphon.v1.Thinker") as host:
                keeper = SlotKeeper(redis, QUEUE, worker_id="hung-1", address=host.address, slots=1)
                thinker_pb2_grpc.add_ThinkerServicer_to_server(self.servicer, host.server)
                hung = fail_when_hung(host, keeper, self.engine, LIMIT_S, self.engine.ages_s.append)
                async with taking_tickets(host, keeper, 5.0, hung):
                    self.address = host.address
                    await host.serve(started=True)
        except* ServiceFailedError:
            self.has_failed = True
        finally:
            await redis.aclose()


async def test_a_worker_with_a_hung_engine_says_why_and_ends(valkey_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """It is not ready and takes no ticket any more, and its calls get the engine's error before it ends."""
    worker, redis = Worker(valkey_url), connect(valkey_url)
    queues = QueueClient(redis, "hung-gateway")
    healths: list[str] = []
    worker.engine.may_answer.set()

    async def note_health(stub: Any) -> None:
        with suppress(grpc.aio.AioRpcError):  # the server ends
            async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
                healths.append(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))  # noqa: PERF401  # as they come

    async def drains() -> bool:
        return all(shown.draining for shown in await queues.workers(QUEUE))

    with caplog.at_level(logging.CRITICAL):
        running = asyncio.create_task(worker.run())
        await wait_until(lambda: worker.address)
        async with open_channel(worker.address) as channel:
            noting = asyncio.create_task(note_health(health_pb2_grpc.HealthStub(channel)))
            stub: Any = thinker_pb2_grpc.ThinkerStub(channel)
            await wait_until(lambda: "SERVING" in healths)
            call = asyncio.ensure_future(anext(aiter(stub.Fetch(common_pb2.FetchRequest(key="-")))))
            await worker.servicer.waits.wait()
            assert not await drains()
            worker.engine.may_answer.clear()
            with pytest.raises(grpc.aio.AioRpcError) as failed:
                await call
            assert error_from_rpc(failed.value, "thinker").code == ENGINE_FAILED
            await wait_until(drains)
            await noting
        await running
    assert worker.has_failed
    assert healths[-2:] == ["SERVING", "NOT_SERVING"]
    assert "cannot go on: the engine hangs: its step takes" in caplog.text
    await redis.aclose()


BLOCKED = """
import asyncio, sys, threading
from services.common import engine_watch
engine_watch._EVERY_S = 0.05

def admit():
    print("blocked", flush=True)
    threading.Event().wait()  # for ever, on the event loop's thread

async def main():
    with engine_watch.exit_when_loop_hangs(float(sys.argv[1])):
        for _ in range(3):
            await asyncio.sleep(0.1)
        print("runs", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        admit()

asyncio.run(main())
"""


async def test_a_process_with_a_hung_event_loop_ends_and_says_where() -> None:
    process = await started(0.3)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    output, errors = await asyncio.wait_for(process.communicate(), HANGS_AFTER_S)
    assert process.returncode == 1
    assert output.endswith(b"blocked\n")
    assert b"the event loop has stood still for" in errors
    assert b"in admit" in errors


async def test_a_stopped_process_does_not_blame_its_event_loop() -> None:
    process = await started(0.3)
    process.send_signal(signal.SIGSTOP)
    await wait_until(lambda: state(process.pid) == "T")
    time.sleep(0.6)  # noqa: ASYNC251  # twice the limit
    process.send_signal(signal.SIGCONT)
    assert process.stdin is not None
    process.stdin.write(b"\n")
    output, _ = await asyncio.wait_for(process.communicate(), HANGS_AFTER_S)
    assert output.endswith(b"blocked\n")  # it went on, until it was blocked


async def started(limit_s: float) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        BLOCKED,
        str(limit_s),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"runs\n"
    return process
