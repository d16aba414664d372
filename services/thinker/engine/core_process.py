"""Forks the process of the engine's core after vLLM is imported. A spawned core would import vLLM again, which is a
third of a thinker's start."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module

from vllm.v1.engine import utils

from services.thinker.engine.forked_process import ForkedProcess
from services.thinker.engine.owned_files import owned_files
from services.thinker.engine.patching import replaced
from services.thinker.engine.worker_processes import can_fork, forked_workers


class CoreProcess(ForkedProcess):
    """The engine's core. It forks `workers` itself: vLLM's executor needs them as its children."""

    def __init__(self, workers: int = 0) -> None:
        super().__init__("EngineCore")
        self._workers = workers

    @contextmanager
    def prepared(self) -> Generator[None]:
        with forked_workers(self._workers), owned_files():
            yield


@contextmanager
def forked_core(workers: int = 0) -> Generator[CoreProcess | None]:
    """Fork a core for `Engine.start`, which forks `workers` workers. Enter this before the process has threads.

    Yield None where a fork is not safe: vLLM then spawns its own core, which takes longer.
    """
    import_module("vllm.v1.engine.core")  # the code that the core will run
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
    """Make vLLM start `core` as its engine core while the block runs. None = vLLM spawns its own."""
    if core is None:
        yield
        return

    class Context:
        Process = core

    with replaced(utils, "get_mp_context", lambda: Context, utils.CoreEngineProcManager.__init__):
        yield
