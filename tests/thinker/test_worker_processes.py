"""Engine workers that are forked before it is known what they run. The tests use a process without threads."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from services.thinker.engine.worker_processes import workers_beside_the_core
from services.thinker.settings import ThinkerSettings
from tests.fixtures.processes import has_ended
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

SCRIPT = """
import gc, os, signal, sys, time
from multiprocessing import connection
gc.disable()
from services.thinker.engine.environment import prepare_environment
prepare_environment()
from services.thinker.engine.core_process import CoreProcess
from services.thinker.engine.worker_processes import forked_workers
from vllm.v1.executor import multiproc_executor

def work(*, rank, ready_pipe, death_pipe, shared_worker_lock):
    with shared_worker_lock:
        ready_pipe.send((rank, os.getpid(), os.environ.get("RANK")))
    try:
        death_pipe.recv()
    except EOFError:
        sys.exit(rank)

def started(rank, context, lock):
    ready, ready_writer = context.Pipe(duplex=False)
    death_reader, death = context.Pipe(duplex=False)
    given = {"rank": rank, "ready_pipe": ready_writer, "death_pipe": death_reader, "shared_worker_lock": lock}
    process = context.Process(target=work, kwargs=given, name=f"VllmWorker-{rank}", daemon=True)
    os.environ["RANK"] = str(rank)
    process.start()
    ready_writer.close()
    death_reader.close()
    return process, ready, death

usual = multiproc_executor.get_mp_context
with forked_workers(0):
    assert multiproc_executor.get_mp_context is usual
with forked_workers(2):
    assert os.listdir("/proc/self/task") == [str(os.getpid())]  # what is forked here has no thread
    context = multiproc_executor.get_mp_context()
    lock = context.Lock()
    lock.acquire()
    workers = [started(rank, context, lock) for rank in range(2)]
    assert not connection.wait([ready for _, ready, _ in workers], timeout=0.2)  # the lock is the same one
    lock.release()
    for rank, (process, ready, _) in enumerate(workers):
        assert ready.recv() == (rank, process.pid, str(rank))
    for rank, (process, _, death) in enumerate(workers):
        death.close()
        assert connection.wait([process.sentinel], timeout=280)
        process.join()
        assert process.exitcode == rank, process.exitcode
assert multiproc_executor.get_mp_context is usual

core = CoreProcess(2)
core.fork()
children = f"/proc/{core.pid}/task/{core.pid}/children"
while len(workers := [int(pid) for pid in open(children).read().split()]) < 2:
    time.sleep(0.01)
os.kill(workers[0], signal.SIGSTOP)  # so the core ends before this one does
os.kill(core.pid, signal.SIGKILL)
assert connection.wait([core.sentinel], timeout=280)
core.join()
assert core.exitcode == -signal.SIGKILL
os.kill(workers[0], signal.SIGCONT)

with forked_workers(2):
    workers += [worker.pid for worker in multiproc_executor.get_mp_context()._workers]
    print(*workers, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


async def test_workers_run_their_task_and_notice_their_parents_end() -> None:
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=HANGS_AFTER_S,
        check=False,
    )
    assert ran.returncode == -9, ran.stderr
    waiting = [int(pid) for pid in ran.stdout.split()]
    assert len(waiting) == 4
    await wait_until(lambda: all(map(has_ended, waiting)))


@pytest.mark.parametrize(
    ("split", "binding", "workers"),
    [
        ({}, "nobind", 0),
        ({"tensor_parallel_size": 4}, "nobind", 4),
        ({"tensor_parallel_size": 4}, "auto", 0),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2, "nodes": 2, "master_address": "a"}, "nobind", 2),
    ],
)
def test_a_nodes_workers_are_forked_unless_in_the_core_or_bound(
    split: dict[str, int], binding: str, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", binding)
    settings = ThinkerSettings.model_validate({"redis_url": "redis://unused", "model": "unused"} | split)
    assert workers_beside_the_core(settings) == workers
