"""Cores for engines of this process, which has threads by now: forked from a server that has none and has imported vLLM
once, as `python -m services.thinker` forks its own."""

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
    """A core for `Engine.start`, with as many workers beside it."""
    multiprocessing.set_forkserver_preload([_PRELOADED])
    core = ServedCore(workers)
    core.fork()
    try:
        yield core
    finally:
        core.abort()
