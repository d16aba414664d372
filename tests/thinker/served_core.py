"""Engine cores for the tests. pytest's process has threads, so a fork server without threads forks the cores.

The server imports vLLM once, as `python -m services.thinker` does before it forks its own core."""

from __future__ import annotations

import multiprocessing
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import popen_forkserver
from typing import Any

from services.thinker.engine.core_process import CoreProcess

_PRELOADED = "tests.thinker.preloaded"


class ServedCore(CoreProcess):
    _Popen: Any = popen_forkserver.Popen


@contextmanager
def served_core(workers: int = 0) -> Generator[CoreProcess]:
    """Return a core for `Engine.start`, with this many workers beside it."""
    multiprocessing.set_forkserver_preload([_PRELOADED])
    core = ServedCore(workers)
    core.fork()
    try:
        yield core
    finally:
        core.abort()
