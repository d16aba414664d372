"""Forks the engine's worker processes, where it has several, after vLLM is imported: as the core is forked."""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Lock
from typing import Any

from vllm.platforms.interface import in_wsl
from vllm.utils.platform_utils import cuda_is_initialized
from vllm.v1.executor import multiproc_executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor, WorkerProc

from services.thinker.engine.environment import binds_threads, on_cpu
from services.thinker.engine.forked_process import ForkedProcess, one_way_pipe, thread_count
from services.thinker.engine.patching import replaced
from services.thinker.settings import ThinkerSettings

logger = logging.getLogger(__name__)


def can_fork() -> bool:
    """Return whether a fork of this process is safe now; log why it is not."""
    if cuda_is_initialized():
        reason = "CUDA is initialized"
    elif in_wsl():
        reason = "NVML does not survive a fork on WSL"
    elif (threads := thread_count()) > 1:
        reason = f"this process has {threads} threads; OPENBLAS_NUM_THREADS=1 usually leaves one"
    else:
        return True
    logger.warning("vLLM's processes are spawned, not forked, so the start takes longer: %s", reason)
    return False


def workers_beside_the_core(settings: ThinkerSettings) -> int:
    """Return how many workers of this machine can be forked.

    A single worker runs in the core. A worker with bound threads must be spawned: OpenMP reads its variables once.
    """
    gpus = settings.tensor_parallel_size * settings.pipeline_parallel_size
    return 0 if gpus == 1 or (on_cpu() and binds_threads()) else gpus // settings.nodes


class WorkerProcess(ForkedProcess):
    """One worker. It inherits its own ends of vLLM's pipes, and the lock; it closes the `others`."""

    def __init__(self, inherited: Sequence[object], others: Sequence[Connection]) -> None:
        super().__init__("VllmWorker", daemon=True, inherited=inherited)
        self._others = others

    @contextmanager
    def prepared(self) -> Generator[None]:
        for other in self._others:  # otherwise a pipe would stay open after its owner's end
            other.close()
        yield


class WorkerContext:
    """Stands for the multiprocessing context of vLLM's executor: gives it the workers' pipes, lock and processes in the
    order in which it asks."""

    def __init__(self, count: int) -> None:
        resource_tracker.ensure_running()  # one for all: otherwise each would clean up what the others still use
        self._lock = multiprocessing.get_context("fork").Lock()
        ready, death = ([one_way_pipe() for _ in range(count)] for _ in range(2))
        self._pipes = [pipe for pair in zip(ready, death, strict=True) for pipe in pair]
        ends = {end for pipe in self._pipes for end in pipe}
        self._workers: list[WorkerProcess] = []
        for (_, ready_writer), (death_reader, _) in zip(ready, death, strict=True):
            own = (ready_writer, death_reader)
            others = [*ends.difference(own), *(end for one in self._workers for end in one.ends_of_the_parent)]
            self._workers.append(WorkerProcess((*own, self._lock), others))
            self._workers[-1].fork()
        self._next_pipe, self._next_worker = iter(self._pipes), iter(self._workers)

    def Pipe(self, duplex: bool) -> tuple[Connection, Connection]:  # noqa: N802
        if duplex:
            raise ValueError("vLLM asked for a duplex pipe, and only one-way pipes were made")
        return next(self._next_pipe)

    def Lock(self) -> Lock:  # noqa: N802
        return self._lock

    def Process(  # noqa: N802
        self, *, target: Callable[..., None], name: str, kwargs: dict[str, Any], daemon: bool
    ) -> ForkedProcess:
        return next(self._next_worker)(target=target, name=name, kwargs=kwargs, daemon=daemon)

    def get_start_method(self) -> str:
        return "spawn"  # with "fork", the executor would pass on file descriptors that the worker must close

    def abort(self) -> None:
        for worker in self._workers:
            worker.abort()


@contextmanager
def forked_workers(count: int) -> Generator[None]:
    """Fork `count` workers now, and make vLLM's executor use them while the block runs.

    Enter this before the process has threads. Where `count` is 0 or a fork is not safe, vLLM spawns its own workers.
    """
    if count == 0 or not can_fork():
        yield
        return
    context = WorkerContext(count)
    users = (MultiprocExecutor._init_executor, WorkerProc.make_worker_process)  # pyright: ignore[reportPrivateUsage]
    try:
        with replaced(multiproc_executor, "get_mp_context", lambda: context, *users):
            yield
    finally:
        context.abort()
