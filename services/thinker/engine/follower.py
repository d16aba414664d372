"""The part of an engine that runs on a follower's machine: vLLM's worker processes, without a scheduler."""

from __future__ import annotations

import asyncio
from typing import Any

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.v1.executor.multiproc_executor import MultiprocExecutor


class FollowerWorkers:
    """Workers that execute the leader's steps. `died` is set when one of them dies."""

    def __init__(self, executor: MultiprocExecutor) -> None:
        self._executor = executor
        self.died = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:  # called in one of vLLM's threads
            loop.call_soon_threadsafe(self.died.set)

        executor.register_failure_callback(tell)

    @classmethod
    async def start(cls, arguments: AsyncEngineArgs) -> FollowerWorkers:
        """Load this machine's part of the model, off the event loop. Return when the leader's part is loaded too."""

        def load() -> MultiprocExecutor:
            return MultiprocExecutor(arguments.create_engine_config(headless=True))

        return cls(await asyncio.to_thread(load))

    @property
    def pids(self) -> list[int]:
        workers: Any = self._executor.workers
        return [worker.proc.pid for worker in workers]

    async def close(self) -> None:
        """End the workers, after a few seconds by force. They hold nothing that must be saved."""
        await asyncio.to_thread(self._executor.shutdown)
