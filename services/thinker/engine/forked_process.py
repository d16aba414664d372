"""A process that is forked early, while this one has no thread, and told later what it runs.

Started anew, each would import vLLM for itself, and no two would share memory. Forked later, beside gRPC's or ZeroMQ's
threads, it could hang.
"""

from __future__ import annotations

import gc
import io
import os
import pickle
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from multiprocessing import popen_fork
from multiprocessing.connection import Connection, Pipe
from multiprocessing.context import ForkProcess
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, cast

import torch


def one_way_pipe() -> tuple[Connection, Connection]:
    """The end that receives and the one that sends."""
    receiver, sender = Pipe(duplex=False)
    return cast(Connection, receiver), cast(Connection, sender)


def thread_count() -> int:
    """Return the number of this process's threads, those of C libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


class _Popen(popen_fork.Popen):
    def _launch(self, process_obj: Any) -> None:
        if (threads := thread_count()) > 1:
            raise RuntimeError(f"a process with {threads} threads cannot be forked: a lock could stay taken for ever")
        super()._launch(process_obj)  # type: ignore[reportAttributeAccessIssue]
        # multiprocessing's own is a pipe, whose other end is also in what that process forks in its turn: it would tell
        # of the last one's end, as it does where a sandbox has no pidfd.
        with suppress(OSError):
            self.sentinel = os.pidfd_open(self.pid)


class ForkedProcess(ForkProcess):
    """To vLLM it is what `multiprocessing.Process` gives: `__call__` takes the place of the constructor, and `start`
    sends what that was given. `inherited` are what cannot be sent, as locks: both sides have them from the fork."""

    _start_method = "spawn"  # of its own children, as in a process that was started anew
    _Popen: Any = _Popen

    def __init__(self, name: str, *, daemon: bool = False, inherited: Sequence[object] = ()) -> None:
        super().__init__(name=name, daemon=daemon)
        self._receiver, self._sender = one_way_pipe()
        self._inherited = inherited
        self._work: tuple[Callable[..., None], dict[str, Any]] | None = None

    def fork(self) -> None:
        gc.freeze()  # what is there by now stays: no collector is to go through it, which would also make a copy of it
        # Held back from the new process until it ignores it: a terminal's Ctrl-C is for the one that forked it.
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        self._receiver.close()

    def __call__(
        self, *, target: Callable[..., None], name: str, kwargs: dict[str, Any], daemon: bool = False
    ) -> ForkedProcess:
        self.name, self._work = name, (target, kwargs)
        return self

    def start(self) -> None:
        """With the environment and the threads that a process started now would have; but what the loader reads of an
        environment, as LD_PRELOAD, was read before. Raises OSError where the process has been killed meanwhile."""
        told = io.BytesIO()
        _Pickler(told, self._inherited).dump((dict(os.environ), torch.get_num_threads(), self._work))
        self._sender.send_bytes(told.getbuffer())

    def abort(self) -> None:
        """Ends it, where it was never told what to run."""
        self._sender.close()

    @property
    def ends_of_the_parent(self) -> tuple[Connection, ...]:
        """What the parent's next child must close, so that this one hears of the parent's end."""
        return (self._sender,)

    def run(self) -> None:
        self._sender.close()  # this process's, so that it hears of the other's end
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # until vLLM has a handler of its own
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        with self.prepared():
            try:
                told = self._receiver.recv_bytes()
            except EOFError:
                return
            environ, threads, (target, kwargs) = _Unpickler(io.BytesIO(told), self._inherited).load()
            for changed in {name for name, _ in environ.items() ^ os.environ.items()}:
                if changed in environ:
                    os.environ[changed] = environ[changed]
                else:
                    del os.environ[changed]
            torch.set_num_threads(threads)
            target(**kwargs)

    def prepared(self) -> AbstractContextManager[None]:
        """Entered in the new process before it waits, and left when it ends."""
        return nullcontext()


class _Pickler(ForkingPickler):
    def __init__(self, file: io.BytesIO, inherited: Sequence[object]) -> None:
        super().__init__(file)
        self._inherited = inherited

    def persistent_id(self, obj: object) -> int | None:
        return next((index for index, one in enumerate(self._inherited) if one is obj), None)


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, inherited: Sequence[object]) -> None:
        super().__init__(file)
        self._inherited = inherited

    def persistent_load(self, pid: int) -> object:
        return self._inherited[pid]
