"""The process of the engine's core, forked from this one once vLLM is imported: else its import is a third of a
thinker's start."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module

from vllm.v1.engine import utils

from services.thinker.engine.forked_process import ForkedProcess
from services.thinker.engine.patching import replaced
from services.thinker.engine.worker_processes import can_fork, forked_workers


class CoreProcess(ForkedProcess):
    """It forks `workers` in its turn, as vLLM's executor has them as its children."""

    def __init__(self, workers: int = 0) -> None:
        super().__init__("EngineCore")
        self._workers = workers

    def prepared(self) -> AbstractContextManager[None]:
        return forked_workers(self._workers)


@contextmanager
def forked_core(workers: int = 0) -> Generator[CoreProcess | None]:
    """Fork a core for `Engine.start`, with as many workers beside it. Enter this before the process has threads.

    Gives None where a fork is not safe: vLLM then starts its own core, which takes longer.
    """
    import_module("vllm.v1.engine.core")  # what it will run
    if not can_fork():
        yield None
        return
    core = CoreProcess(workers)
    core.fork()
    try:
        yield core
    finally:
        core.abort()


@contextmanager
def started_as(core: CoreProcess | None) -> Generator[None]:
    """In the block, the core that vLLM starts is this one; where None, vLLM's own."""
    if core is None:
        yield
        return

    class Context:
        Process = core

    with replaced(utils, "get_mp_context", lambda: Context, utils.CoreEngineProcManager.__init__):
        yield
