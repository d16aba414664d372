"""One run: two processes of each service, a load, and SIGTERM for one process after the other."""

from __future__ import annotations

import asyncio
import os
import tempfile
from argparse import ArgumentParser
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

from bench.chaos.ask import Asker
from bench.chaos.leftovers import Queues
from bench.chaos.load import Asked, Load, make_references
from bench.chaos.questions import QUESTIONS, Question
from bench.chaos.resumes import Resume, collecting
from bench.rolling.restarts import Restart, restart
from services.common.redis_client import connect
from services.common.redis_url import parse_redis_url
from services.local.options import add_stack_arguments, read_options
from services.local.plan import StackOptions
from services.local.process import ManagedProcess
from services.local.stack import LocalStack
from services.local.supervisor import Supervisor
from tests.fixtures.balancer import Balancer, balancing
from tests.fixtures.wait import wait_until

SETTINGS = (
    "drain_s=60",  # of the workers: long enough for any answer, as in the charts
    "gateway.drain_s=60",
    "gateway.shutdown_delay_s=1",  # five polls of the balancer
    "talker.latency_ms=0",  # so that a gap is a pause, and not the talker's grouping of frames
)
SHORT = tuple(
    replace(
        question,
        case=replace(
            question.case,
            max_tokens=min(question.case.max_tokens, 120),
            max_frames=min(question.case.max_frames, 40),
        ),
    )
    for question in QUESTIONS
)
"""Answers that end while a gateway drains: it cannot hand them over."""
LONG = tuple(
    Question(
        replace(question.case, name=f"long {question.case.name}", max_tokens=tokens, max_frames=600),
        question.over,
        ignore_eos=True,
    )
    for question, tokens in zip((QUESTIONS[0], QUESTIONS[5]), (3000, 600), strict=True)
)
"""Answers that last longer than any worker's grace."""


@dataclass(frozen=True)
class Run:
    restarts: Sequence[Restart]
    asked: Sequence[Asked]
    resumes: Sequence[Resume]


async def run(clients: int, long_clients: int, rest_s: float, say: Callable[[str], None]) -> Run:
    """rest_s: mean time from a short answer to its client's next question. Without rests two cores are full, and a
    process takes minutes to start.

    Raise what the first clients raise before any restart, StartFailedError and TimeoutError."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    with tempfile.TemporaryDirectory() as logs, collecting() as collector:
        options = _options(environ, logs, collector.endpoint)
        async with AsyncExitStack() as stack:
            local = await stack.enter_async_context(LocalStack(options, environ))
            second = await stack.enter_async_context(another_gateway(local, options.start_timeout_s))
            gateways = [process for process in local.processes if process.spec.name == "gateway"] + [second]
            balancer = await stack.enter_async_context(balancing(gateways))
            await wait_until(lambda: _all_ready(balancer, gateways), within_s=options.start_timeout_s)
            address = "127.0.0.1"
            asker = Asker(
                f"http://{address}:{balancer.http_port}", f"{address}:{balancer.grpc_port}", options.served_name
            )
            stack.push_async_callback(asker.close)
            redis = connect(parse_redis_url(local.redis_url))
            stack.push_async_callback(redis.aclose)
            short = Load(asker, await make_references(asker, SHORT), clients, rest_s=rest_s, seed=0)
            long = Load(asker, await make_references(asker, LONG), long_clients, rest_s=0.0, seed=1)
            say("the references are there")
            restarts: list[Restart] = []
            async with short.running():
                async with long.running():
                    workers = [process for process in local.processes if process.spec.name not in ("valkey", "gateway")]
                    restarts += await _restart_all(workers, _in_queues(Queues(redis, options.served_name)), say)
                restarts += await _restart_all(gateways, balancer.is_ready, say)
    return Run(restarts, short.asked + long.asked, collector.resumes)


async def _all_ready(balancer: Balancer, gateways: Sequence[ManagedProcess]) -> bool:
    return all([await balancer.is_ready(gateway) for gateway in gateways])


def _options(environ: Mapping[str, str], logs: str, collector: str) -> StackOptions:
    parser = ArgumentParser()
    add_stack_arguments(parser)
    given = ["--model=random", "--port=0", f"--log-dir={logs}", "--replicas=2"]
    settings = [f"--set={pair}" for pair in (*SETTINGS, f"gateway.otlp_endpoint={collector}")]
    return read_options(parser.parse_args([*given, *settings]), environ)


async def _restart_all(
    processes: Sequence[ManagedProcess],
    serves: Callable[[ManagedProcess], Awaitable[bool]],
    say: Callable[[str], None],
) -> list[Restart]:
    done: list[Restart] = []
    for process in processes:
        done.append(await restart(process, serves))
        say(f"{process.spec.name}: gone after {done[-1].gone_s:.1f} s, replaced after {done[-1].ready_s:.1f} s")
    return done


def _in_queues(queues: Queues) -> Callable[[ManagedProcess], Awaitable[bool]]:
    """Return a check that a worker takes tickets."""

    async def takes_tickets(process: ManagedProcess) -> bool:
        return process.pid in await queues.live()

    return takes_tickets


@asynccontextmanager
async def another_gateway(local: LocalStack, start_timeout_s: float) -> AsyncGenerator[ManagedProcess]:
    """Run a second gateway of the stack inside the block."""
    (first,) = [process for process in local.processes if process.spec.name == "gateway"]
    ready = first.spec.ready_path.with_name("gateway-1.ready")
    own = {"ANTIPHON_HTTP_PORT": "0", "ANTIPHON_GRPC_PORT": "0", "ANTIPHON_READY_FILE": str(ready)}
    spec = replace(first.spec, name="gateway-1", ready_path=ready, environ={**first.spec.environ, **own})
    second = ManagedProcess(spec, first.log_path.parent)
    supervisor = Supervisor([[second]], start_timeout_s, lambda: None)
    try:
        await supervisor.start()
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(supervisor.watch(), name="watch")
            try:
                yield second
            finally:
                watch.cancel()
    finally:
        await supervisor.stop()
