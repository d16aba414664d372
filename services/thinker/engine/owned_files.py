"""Keeps the files of vLLM's executors where the next start finds them. An engine that is killed removes none itself."""

from __future__ import annotations

import multiprocessing
import secrets
import threading
from collections.abc import Generator
from contextlib import contextmanager

from tqdm import tqdm
from vllm.v1.executor import multiproc_executor, uniproc_executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from services.common.scratch import ScratchDir
from services.thinker.engine.patching import replaced


@contextmanager
def owned_files() -> Generator[None]:
    """Make vLLM's executors use a scratch folder of this process while the block runs.

    The locks of a spawning context, which this process has, stay in /dev/shm by name where it is killed. So the single
    worker gets a lock without a name, and progress bars one of this process alone.
    """
    tqdm.set_lock(threading.RLock())
    with ScratchDir() as scratch:

        def store() -> str:
            return f"file://{scratch.path}/store-{secrets.token_hex(8)}"

        inits = (UniProcExecutor._init_executor, MultiprocExecutor._init_executor)  # pyright: ignore[reportPrivateUsage]
        arguments = UniProcExecutor._distributed_args  # pyright: ignore[reportPrivateUsage]
        lock = multiprocessing.get_context("fork").Lock
        with (
            replaced(uniproc_executor, "get_file_store_init_method", store, arguments),
            replaced(multiproc_executor, "get_file_store_init_method", store, inits[1]),
            replaced(uniproc_executor, "Lock", lock, inits[0]),
        ):
            yield
