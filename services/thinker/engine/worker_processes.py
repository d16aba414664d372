"""The processes of the engine's workers, where it has several: forked from what has imported vLLM, as its core is."""

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
    """How many workers of this machine can be forked. A single one runs in the core, and one whose threads OpenMP is to
    bind must be started with the variables that it reads once."""
    gpus = settings.tensor_parallel_size * settings.pipeline_parallel_size
    return 0 if gpus == 1 or (on_cpu() and binds_threads()) else gpus // settings.nodes


class WorkerProcess(ForkedProcess):
    """`inherited` of it are the ends of vLLM's pipes that are its own, and the lock."""

    def __init__(self, inherited: Sequence[object], others: Sequence[Connection]) -> None:
        super().__init__("VllmWorker", daemon=True, inherited=inherited)
        self._others = others

    @contextmanager
    def prepared(self) -> Generator[None]:
        for other in self._others:  # else a pipe would not end when its one end does
            other.close()
        yield


class WorkerContext:
    """What vLLM's executor takes its workers' pipes, lock and processes from, in the order in which it asks."""

    def __init__(self, count: int) -> None:
        resource_tracker.ensure_running()  # one for all of them: else each would tidy up what is still the others'
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
            raise ValueError("vLLM asks for a pipe of two directions, and there are none")
        return next(self._next_pipe)

    def Lock(self) -> Lock:  # noqa: N802
        return self._lock

    def Process(  # noqa: N802
        self, *, target: Callable[..., None], name: str, kwargs: dict[str, Any], daemon: bool
    ) -> ForkedProcess:
        return next(self._next_worker)(target=target, name=name, kwargs=kwargs, daemon=daemon)

    def get_start_method(self) -> str:
        return "spawn"  # of a fork at this moment the executor would pass on what is to be closed in it

    def abort(self) -> None:
        for worker in self._workers:
            worker.abort()


@contextmanager
def forked_workers(count: int) -> Generator[None]:
    """In the block, the workers that vLLM's executor starts are `count` that are forked now; to be entered before there
    is any thread. Where they are none, or cannot be forked, vLLM starts its own."""
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
