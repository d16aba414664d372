"""The process of the engine's core, forked from this one once vLLM is imported and before there is a thread.

vLLM would start Python anew for it and import itself a second time, a third of a thinker's start, and the two would
share no memory. Forked later, beside gRPC's threads, it could hang.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing.connection import Pipe
from multiprocessing.context import ForkProcess
from typing import Any

import torch
from vllm.platforms.interface import in_wsl
from vllm.utils.platform_utils import cuda_is_initialized
from vllm.v1.engine import utils


class CoreProcess(ForkProcess):
    """A process that waits to be told what it runs.

    To vLLM it is what `multiprocessing.Process` gives: `__call__` takes the place of the constructor, and `start` sends
    what that was given.
    """

    _start_method = "spawn"  # of its own children, as in a process that was started anew

    def __init__(self) -> None:
        super().__init__(name="EngineCore")
        self._receiver, self._sender = Pipe(duplex=False)
        self._work: tuple[Callable[..., None], dict[str, Any]] | None = None

    def fork(self) -> None:
        import_module("vllm.v1.engine.core")  # what it will run
        gc.freeze()  # what is there by now stays: no collector is to go through it, which would also make a copy of it
        # Held back from the new process until it ignores it: a terminal's Ctrl-C is for the one that forked it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._receiver.close()

    def __call__(self, *, target: Callable[..., None], name: str, kwargs: dict[str, Any]) -> CoreProcess:
        self.name, self._work = name, (target, kwargs)
        return self

    def start(self) -> None:
        """With the environment and the threads that a process started now would have; but what the loader reads of an
        environment, as LD_PRELOAD, was read before. Raises OSError where the process has been killed meanwhile."""
        self._sender.send((dict(os.environ), torch.get_num_threads(), self._work))

    def give_up(self) -> None:
        """Ends it, where it was never told what to run."""
        self._sender.close()

    def run(self) -> None:
        self._sender.close()  # this process's, so that it hears of the other's end
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # until vLLM has a handler of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        try:
            environ, threads, (target, kwargs) = self._receiver.recv()
        except EOFError:
            return
        for changed in {name for name, _ in environ.items() ^ os.environ.items()}:
            if changed in environ:
                os.environ[changed] = environ[changed]
            else:
                del os.environ[changed]
        torch.set_num_threads(threads)
        target(**kwargs)


@contextmanager
def forked_core() -> Generator[CoreProcess | None]:
    """A core for `Engine.start`; to be entered before there is any thread. None where vLLM itself would not fork: where
    CUDA is in use already, and on WSL, whose NVML does not bear it."""
    if cuda_is_initialized() or in_wsl():
        yield None
        return
    core = CoreProcess()
    core.fork()
    try:
        yield core
    finally:
        core.give_up()


@contextmanager
def started_as(core: CoreProcess | None) -> Generator[None]:
    """In the block, the core that vLLM starts is this one; where None, vLLM's own."""
    if core is None:
        yield
        return

    class Context:
        Process = core

    usual = utils.get_mp_context
    utils.get_mp_context = lambda: Context
    try:
        yield
    finally:
        utils.get_mp_context = usual
