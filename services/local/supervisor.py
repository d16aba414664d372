"""Keeps a set of processes running, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Sequence

from services.local.errors import StartFailedError
from services.local.process import ManagedProcess

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STEADY_S = 60.0
"""A process that lived so long starts again without delay."""


class Supervisor:
    """Starts the first group, then all others at once. Restarts what ends. Stops the groups in reverse order."""

    def __init__(
        self, groups: Sequence[Sequence[ManagedProcess]], start_timeout_s: float, on_change: Callable[[], None]
    ) -> None:
        self._groups = groups
        self._start_timeout_s = start_timeout_s
        self._on_change = on_change
        self._start_locks = {process.spec.starts_alone: asyncio.Lock() for group in groups for process in group}

    async def start(self) -> None:
        """Return when all are ready. Raise StartFailedError for the first that is not; the caller must still `stop`."""
        first, *others = self._groups
        for processes in (first, [process for group in others for process in group]):
            try:
                async with asyncio.TaskGroup() as tasks:
                    for process in processes:
                        tasks.create_task(self._start_one(process), name=f"start {process.spec.name}")
            except* StartFailedError as failures:
                raise failures.exceptions[0] from None

    async def watch(self) -> None:
        """Restart what ends, until cancelled. The delay grows for a process that keeps ending."""
        async with asyncio.TaskGroup() as tasks:
            for group in self._groups:
                for process in group:
                    tasks.create_task(self._keep(process), name=f"keep {process.spec.name}")

    async def stop(self) -> None:
        """Stop all processes."""
        for group in reversed(self._groups):
            await asyncio.gather(*(process.stop() for process in group))

    async def _start_one(self, process: ManagedProcess) -> None:
        async with self._turn_to_start(process):
            await process.start()
            await process.wait_ready(self._start_timeout_s)

    def _turn_to_start(self, process: ManagedProcess) -> contextlib.AbstractAsyncContextManager[object]:
        name = process.spec.starts_alone
        return self._start_locks[name] if name else contextlib.nullcontext()

    async def _keep(self, process: ManagedProcess) -> None:
        backoff_s = 0.0
        while True:
            began_s = time.monotonic()
            how = await process.wait_ended()
            steady = time.monotonic() - began_s > STEADY_S
            backoff_s = 0.0 if steady else min(LAST_BACKOFF_S, max(FIRST_BACKOFF_S, 2 * backoff_s))
            logger.warning(
                "%s ended (%s) and starts again%s; its log: %s",
                *(process.spec.name, how, f" in {backoff_s:g} s" if backoff_s else "", process.log_path),
            )
            await asyncio.sleep(backoff_s)
            async with self._turn_to_start(process):
                await process.start()
                self._on_change()
                try:
                    await process.wait_ready(self._start_timeout_s)
                except StartFailedError as failure:
                    logger.error("%s", failure)  # noqa: TRY400  # the child's failure, not ours: no traceback
                    process.kill()
                else:
                    logger.warning("%s is ready again", process.spec.name)
            self._on_change()
