"""A process that is forked early, while this one has a single thread, and gets its work later.

A spawned process would import vLLM again and share no memory. A process forked later, beside the threads of gRPC or
ZeroMQ, could hang.
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
    """Return (receiving end, sending end)."""
    receiver, sender = Pipe(duplex=False)
    return cast(Connection, receiver), cast(Connection, sender)


def thread_count() -> int:
    """Return the number of this process's threads, those of C libraries included."""
    return sum(1 for _ in Path("/proc/self/task").iterdir())


class _Popen(popen_fork.Popen):
    def _launch(self, process_obj: Any) -> None:
        if (threads := thread_count()) > 1:
            raise RuntimeError(f"a process with {threads} threads cannot be forked: a lock could stay locked for ever")
        super()._launch(process_obj)  # type: ignore[reportAttributeAccessIssue]
        # multiprocessing uses a pipe, and the children of the new process inherit its other end. It would report the
        # end of the last of them. It is used only where a sandbox has no pidfd.
        with suppress(OSError):
            self.sentinel = os.pidfd_open(self.pid)


class ForkedProcess(ForkProcess):
    """Takes the place of a `multiprocessing.Process` in vLLM.

    `__call__` stands for the constructor, and `start` sends its arguments to the forked process. `inherited` are
    objects that cannot be sent, such as locks: both sides have them from the fork.
    """

    _start_method = "spawn"  # for its own children, as in a spawned process
    _Popen: Any = _Popen

    def __init__(self, name: str, *, daemon: bool = False, inherited: Sequence[object] = ()) -> None:
        super().__init__(name=name, daemon=daemon)
        self._receiver, self._sender = one_way_pipe()
        self._inherited = inherited
        self._work: tuple[Callable[..., None], dict[str, Any]] | None = None

    def fork(self) -> None:
        gc.freeze()  # a collection would touch the objects that exist now, and so copy their shared pages
        # Ctrl-C is for the parent. Block it until the new process ignores it.
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
        """Send the process its work, with the environment and thread count of this process as they are now.

        Variables that the loader reads, such as LD_PRELOAD, have no effect any more. Raise OSError where the process
        has been killed meanwhile.
        """
        told = io.BytesIO()
        _Pickler(told, self._inherited).dump((dict(os.environ), torch.get_num_threads(), self._work))
        self._sender.send_bytes(told.getbuffer())

    def abort(self) -> None:
        """End the process if it never got its work."""
        self._sender.close()

    @property
    def ends_of_the_parent(self) -> tuple[Connection, ...]:
        """What the parent's next child must close, so that this process notices the parent's end."""
        return (self._sender,)

    def run(self) -> None:
        self._sender.close()  # this process' copy, so that it notices the parent's end
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # until vLLM sets its own handler
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
        """Return a context that the new process enters before it waits for work, and leaves when it ends."""
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
