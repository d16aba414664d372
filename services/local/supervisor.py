"""Keeps a set of processes running, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence

from services.local.errors import StartFailedError
from services.local.process import ManagedProcess

logger = logging.getLogger(__name__)

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
START_NICES = (19, 10, 5)
NICER_AFTER_S = 20.0
"""How a process that starts again while another one does its work gives way: the start takes all of a CPU for many
seconds, and the answers that go on beside it would pause for longer. Where all CPUs stay busy it gets more after a
while, so that it does start."""
STEADY_S = 10.0
"""A process that was ready for so long starts again without delay: it does not end in its start."""


def _say_nothing(name: str, seconds: float) -> None:
    pass


class Supervisor:
    """Starts the first group, then all others at once. Restarts what ends. Stops the groups in reverse order."""

    def __init__(
        self,
        groups: Sequence[Sequence[ManagedProcess]],
        start_timeout_s: float,
        on_change: Callable[[], None],
        on_start: Callable[[str, float], None] = _say_nothing,
    ) -> None:
        """`on_change` is called when a port or process id changes.

        `on_start` is called in the first start, with the name of each process that is ready and the seconds it took.
        """
        self._on_start = on_start
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
            began_s = time.monotonic()
            await process.start()
            await process.wait_ready(self._start_timeout_s)
            self._on_start(process.spec.name, time.monotonic() - began_s)

    def _replica_serves(self, process: ManagedProcess) -> bool:
        others = (other for group in self._groups for other in group if other is not process)
        name = process.spec.replica_of
        return any(name and name == other.spec.replica_of and other.ready for other in others)

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
                    async with self._giving_way(process):
                        await process.wait_ready(self._start_timeout_s)
                except StartFailedError as failure:
                    logger.error("%s", failure)  # noqa: TRY400  # the child's failure, not ours: no traceback
                    process.kill()
                else:
                    logger.warning("%s is ready again", process.spec.name)
            self._on_change()

    @contextlib.asynccontextmanager
    async def _giving_way(self, process: ManagedProcess) -> AsyncGenerator[None]:
        """Let the block, a start, give way to a replica that serves."""

        async def give_way() -> None:
            for nice in START_NICES:
                await process.set_nice(nice)
                await asyncio.sleep(NICER_AFTER_S)
            await process.set_nice(0)

        gives_way = asyncio.create_task(give_way()) if self._replica_serves(process) else None
        try:
            yield
        finally:
            if gives_way is not None:
                gives_way.cancel()
                await process.set_nice(0)
