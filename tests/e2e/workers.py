"""The worker processes of a stack: which of them is busy, what their metrics say, and ways to disturb them."""

from __future__ import annotations

import os
import re
import signal
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path

from antiphon.v1 import queue_pb2
from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName
from services.common.redis_client import connect
from services.common.stages import THINKER
from tests.e2e.idle import scrape
from tests.fixtures.processes import descendants
from tests.fixtures.stack import Stack
from tests.fixtures.wait import wait_until


def engine_of(thinker: int) -> int:
    """Return the process of vLLM's engine core, a child of the thinker's."""
    found = _engines_of(thinker)
    assert found, f"thinker {thinker} has no engine"
    return found[0]


def _engines_of(thinker: int) -> list[int]:
    found: list[int] = []
    for pid in descendants(thinker):
        with suppress(FileNotFoundError, ProcessLookupError):  # one that ended meanwhile
            if Path(f"/proc/{pid}/comm").read_text().startswith("VLLM"):
                found.append(pid)
    return found


def engines(stack: Stack) -> list[int]:
    """Return the processes of the engine cores of all thinkers."""
    return [engine_of(pid) for pid in servers(stack, THINKER)]


def servers(stack: Stack, stage: str) -> list[int]:
    """Return the processes of the stage's workers."""
    return [pid for name, pid in stack.pids.items() if name.partition("-")[0] == stage]


async def metric(stack: Stack, process: str, name: str) -> float:
    """Return the value of a process's metric without labels."""
    page = await scrape(stack, process)
    found = re.search(rf"^antiphon_{name} (\S+)$", page, re.MULTILINE)
    assert found, name
    return float(found[1])


@asynccontextmanager
async def held(stack: Stack, stage: str) -> AsyncGenerator[str]:
    """Stop what makes the stage's answers while the block runs: the talkers, or the thinkers' engines. Yield the name
    of the only worker that has a busy slot. They stop before anything else happens, so that no answer ends meanwhile.
    """
    with stopped(*_makers(stack, stage)):
        yield await busy_worker(stack, stage)


def _makers(stack: Stack, stage: str) -> list[int]:
    return engines(stack) if stage == THINKER else servers(stack, stage)


async def busy_worker(stack: Stack, stage: str) -> str:
    """Return the name of the stage's only worker that has a busy slot. Wait until there is one."""
    (name,) = await busy_workers(stack, stage)
    return name


async def busy_workers(stack: Stack, stage: str) -> list[str]:
    """Return the names of the stage's workers that have a busy slot. Wait until there is one.

    An answer that is to be under way afterwards has to stand still meanwhile: see `held`.
    """
    names = {str(pid): name for name, pid in stack.pids.items()}
    found: list[str] = []
    redis = connect(stack.redis_url)
    try:
        queues = QueueClient(redis, "looks")

        async def one_is() -> bool:
            try:
                workers = await queues.workers(QueueName(stage, stack.model))
            except Unavailable:  # on a busy machine Redis may take longer than a gateway waits
                return False
            found[:] = [names[pid] for worker in workers if worker.busy and (pid := _pid_of(worker)) in names]
            return bool(found)

        await wait_until(one_is)
    finally:
        await redis.aclose()
    return found


async def feature_holder(stack: Stack) -> str:
    """Return the name of the only preprocess worker that holds features of a request."""
    workers = [name for name in stack.metrics_ports if name.startswith("preprocess")]
    (found,) = [name for name in workers if await metric(stack, name, "preprocess_held_requests")]
    return found


def _pid_of(worker: queue_pb2.WorkerInfo) -> str:
    return worker.worker_id.split("-")[-2]


async def in_queues(stack: Stack, name: str, stage: str) -> float:
    """Return what the gateway shows of a stage's queue: "busy_slots", "depth_tickets", "live_workers"."""
    return _in_queues(await scrape(stack), name, stage)


def _in_queues(page: str, name: str, stage: str) -> float:
    found = re.search(rf'^antiphon_queue_{name}\{{[^}}]*stage="{stage}"\}} (\S+)$', page, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def moved(stack: Stack, stage: str) -> float:
    """Return how many answers of the stage have moved to another worker."""
    name = rf'antiphon_gateway_resumes_total\{{cause="moved",stage="{stage}"\}} (\S+)'
    found = re.search(f"^{name}$", await scrape(stack), re.MULTILINE)
    return float(found[1]) if found else 0.0


async def all_ready(stack: Stack) -> None:
    """Wait until all processes are ready, their workers are in the queues, and nothing is under way."""
    workers = Counter(name.partition("-")[0] for name in stack.pids if name not in ("valkey", "gateway"))

    async def is_ready() -> bool:
        if not set(stack.metrics_ports) >= set(stack.pids) - {"valkey"}:
            return False
        page = await scrape(stack)
        return all(
            [_in_queues(page, name, stage) for name in ("live_workers", "busy_slots", "depth_tickets")] == [count, 0, 0]
            for stage, count in workers.items()
        )

    await wait_until(is_ready)


@contextmanager
def stopped(*pids: int) -> Generator[None]:
    """Stop processes with SIGSTOP while the block runs."""
    with ExitStack() as stack:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stack.callback(_go_on, pid)
        yield


def _go_on(pid: int) -> None:
    with suppress(ProcessLookupError):  # it was killed meanwhile
        os.kill(pid, signal.SIGCONT)
