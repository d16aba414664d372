"""One run: the stack, the references, the load without losses, the load with them, and what is left."""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.chaos import leftovers
from bench.chaos.ask import Asker
from bench.chaos.figures import Run
from bench.chaos.killer import Killer
from bench.chaos.load import Load, make_references
from bench.chaos.questions import QUESTIONS, Question
from bench.chaos.resumes import Collector, collecting
from services.common.redis_client import connect
from services.common.redis_url import parse_redis_url
from services.local.options import add_stack_arguments, read_options
from services.local.plan import StackOptions
from services.local.stack import LocalStack

# Frames come as they are made, so that a gap is a pause and not the talker's grouping for a client that plays.
STACK_SETTINGS = ("talker.latency_ms=0",)


# Less than a worker takes to start: none lives and dies between two looks.
NOTE_EVERY_S = 2.0
_LOOK_EVERY_S = 0.2


@dataclass(frozen=True)
class Options:
    """calm_s: how long the load runs before the first loss. stops: the part of losses that are SIGSTOPs. aimed: only
    workers that hold a request are lost. resumes: losses go on until so many were seen."""

    kills: int
    workers: int
    clients: int
    rest_s: float
    between_s: float
    calm_s: float
    stops: float
    seed: int
    settings: Sequence[str] = ()
    log_dir: Path | None = None
    questions: Sequence[Question] = QUESTIONS
    aimed: bool = False
    resumes: int = 0


@dataclass
class Seen:
    """The sessions that the stack's processes led, and the inodes of the shared memory that they had."""

    sessions: set[int] = field(default_factory=set[int])
    shared_memory: set[int] = field(default_factory=set[int])

    async def note(self, stack: LocalStack) -> None:
        """Note them until cancelled."""
        while True:
            self.sessions |= {process.pid for process in stack.processes if process.pid is not None}
            self.shared_memory |= await asyncio.to_thread(leftovers.shared_memory_of, frozenset(self.sessions))
            await asyncio.sleep(NOTE_EVERY_S)


async def run(options: Options, say: Callable[[str], None]) -> Run:
    """Raise what the first clients raise while nothing is lost yet, StartFailedError and NeverReadyError."""
    with tempfile.TemporaryDirectory() as logs, tempfile.TemporaryDirectory() as temporary, collecting() as collector:
        environ = _environ(temporary)
        stack_options = _stack_options(options, collector, environ, Path(logs))
        stack = LocalStack(stack_options, environ)
        seen = Seen()
        async with stack, asyncio.TaskGroup() as tasks:
            noting = tasks.create_task(seen.note(stack), name="seen")
            result = await _under_load(options, stack, stack_options.served_name, collector, say)
            noting.cancel()
        result.resumes = collector.resumes
        result.left = {
            "processes": leftovers.processes_left(seen.sessions),
            "files": leftovers.files_left(Path(temporary)),
            "shared_memory": leftovers.shared_memory_left(seen.shared_memory),
        }
    return result


def _environ(temporary: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("ANTIPHON_")}
    return inherited | {"TMPDIR": temporary, "OTEL_BSP_SCHEDULE_DELAY": "500"}  # spans come soon after their end


def _stack_options(options: Options, collector: Collector, environ: dict[str, str], log_dir: Path) -> StackOptions:
    parser = ArgumentParser()
    add_stack_arguments(parser)
    settings = (*STACK_SETTINGS, f"gateway.otlp_endpoint={collector.endpoint}", *options.settings)
    given = ["--model=random", "--port=0", f"--log-dir={options.log_dir or log_dir}", f"--replicas={options.workers}"]
    return read_options(parser.parse_args([*given, *(f"--set={pair}" for pair in settings)]), environ)


async def _under_load(
    options: Options, stack: LocalStack, model: str, collector: Collector, say: Callable[[str], None]
) -> Run:
    redis = connect(parse_redis_url(stack.redis_url))
    asker = Asker(stack.url, stack.grpc_address, model)
    try:
        queues = leftovers.Queues(redis, model)
        load = Load(asker, {}, options.clients, options.rest_s, options.seed)
        killer = Killer(
            *(stack, options.workers, queues.live, say),
            *(options.kills, options.between_s, options.stops, options.seed, options.aimed),
            go_on=lambda: _too_few_resumes(options, load, collector),
        )
        slots = await queues.slots()
        began_s = time.monotonic()
        load.references = await make_references(asker, options.questions)
        say(f"references of {len(load.references)} questions: {time.monotonic() - began_s:.0f} s")
        async with load.running():
            await asyncio.sleep(options.calm_s)
            calm = list(load.asked)
            say(f"{len(calm)} answers without a loss")
            began_s = time.monotonic()
            await killer.run()
        await killer.all_ready(options.workers * len(slots))
        return Run(
            calm=calm,
            asked=load.asked[len(calm) :],
            losses=killer.losses,
            replicas=options.workers,
            idle=await leftovers.idle(queues, stack.processes, slots),
            seconds=time.monotonic() - began_s,
        )
    finally:
        await asker.close()
        await redis.aclose()


async def _too_few_resumes(options: Options, load: Load, collector: Collector) -> bool:
    """Wait until the answers that are under way have ended, and what the gateway tells of them is here; and until a
    client has asked again."""
    if options.resumes:
        before = frozenset(load.under_way)
        hit = set(before)
        while (len(collector.resumes) < options.resumes and hit - collector.ended) or not load.under_way - before:
            await asyncio.sleep(_LOOK_EVERY_S)
            hit -= {each.trace_id for each in load.asked if each.error}
    return len(collector.resumes) < options.resumes
