"""The runner of a gateway: it takes lines and jobs of batches from the control plane and works on them.

See README.md for how two runners never both give a line its result.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from antiphon.v1 import batches_pb2
from services.common.errors import AntiphonError, Capacity, Gone, Unavailable
from services.gateway import metrics
from services.gateway.batches.finalize import finalize
from services.gateway.batches.lines import Lines
from services.gateway.batches.object_store import ObjectStore, file_object, results_folder
from services.gateway.batches.validate import validate
from services.gateway.control.batches import ControlBatches
from services.gateway.memory import GatewayMemory

_MAX_JOBS = 2
_LEASE_S = 30.0
# No file is removed so long after it was taken for that: others may soon take it.
_REMOVE_S = 60.0
_FIRST_BACKOFF_S, _LAST_BACKOFF_S = 0.5, 15.0
logger = logging.getLogger(__name__)


def new_runner_id() -> str:
    """Return an id that no runner ever had."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class RunnerLimits:
    """`lines`: the most that are worked on at a time; 0 = this gateway runs none, and does no jobs.
    `kept_response_bytes`: the most that an earlier response adds to a request. `poll_s`: how often work is asked for
    while there is none."""

    lines: int
    max_line_bytes: int
    kept_response_bytes: int
    poll_s: float = 2.0


class BatchRunner:
    def __init__(
        self,
        id: str,
        control: ControlBatches,
        store: ObjectStore,
        lines: Lines,
        limits: RunnerLimits,
        wake: asyncio.Event,
        memory: GatewayMemory,
    ) -> None:
        self._id = id
        self._control = control
        self._store = store
        self._lines = lines
        self._limits = limits
        self._jobs: set[asyncio.Task[None]] = set()
        self._lease_s = _LEASE_S
        # Set where there may be work.
        self._wake = wake
        self._memory = memory
        self._drains = False
        # What is held changes in answers of the control plane. One that is lost leaves lines that nobody works on,
        # until the runner tells what it knows to hold.
        self._telling = asyncio.Lock()
        self._is_unsure = False
        self._job_batch_ids: set[str] = set()

    async def run(self) -> None:
        """Work until cancelled. Then what is under way is given back, as far as that goes at once."""
        if not self._limits.lines:
            return
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._lines.run(), name="batch results")
            tasks.create_task(self._keep(), name="batch lease")
            await self._take(tasks)

    async def drain(self) -> None:
        """Take nothing more, and give everything back. What has a result is stored."""
        self._drains = True
        for job in self._jobs:
            job.cancel()
        await asyncio.gather(self._lines.stop(), *self._jobs, return_exceptions=True)
        try:
            await self._lines.flush()
        except AntiphonError as error:
            logger.warning("batch lines are left to whoever takes them over: %s", error)

    async def _take(self, tasks: asyncio.TaskGroup) -> None:
        backoff_s = _FIRST_BACKOFF_S
        while True:
            self._wake.clear()
            self._lines.freed.clear()
            free_lines, free_jobs = self._limits.lines - self._lines.count, _MAX_JOBS - len(self._jobs)
            more = False
            if not self._drains and (free_lines > 0 or free_jobs > 0):
                try:
                    async with self._telling:
                        self._is_unsure = True  # until the answer is here
                        taken = await self._control.take(self._id, max(0, free_lines), max(0, free_jobs))
                        more = self._start(taken, tasks)
                        self._is_unsure = False
                    backoff_s = _FIRST_BACKOFF_S
                except AntiphonError as error:
                    logger.warning("no work of batches can be taken: %s", error)
                    await asyncio.sleep(backoff_s * random.uniform(0.5, 1))
                    backoff_s = min(_LAST_BACKOFF_S, 2 * backoff_s)
                    continue
            await self._wait(more=more)

    async def _wait(self, *, more: bool) -> None:
        """Wait until it is time to ask again: `more` = as soon as a line is done."""
        waits = [asyncio.create_task(self._wake.wait(), name="batch wake")]
        if more:
            waits.append(asyncio.create_task(self._lines.freed.wait(), name="batch freed"))
        try:
            await asyncio.wait(waits, timeout=self._limits.poll_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def _start(self, taken: batches_pb2.TakeWorkResponse, tasks: asyncio.TaskGroup) -> bool:
        """Begin what was taken. Return whether there is more."""
        metrics.BATCH_WAITING.set(taken.waiting_lines)
        metrics.BATCHES_OPEN.set(taken.open_batches)
        self._lease_s = taken.lease_ms / 1000
        for line in taken.lines:
            self._lines.start(line, tasks)
        for job in taken.jobs:
            if job.batch.id not in self._job_batch_ids:
                self._job_batch_ids.add(job.batch.id)
                self._begin(self._job(job), f"batch job {job.batch.id}", tasks)
        if taken.removed_file_ids:
            self._begin(self._remove_files(list(taken.removed_file_ids)), "batch files", tasks)
        return bool(taken.waiting_lines)

    def _begin(self, work: Awaitable[None], name: str, tasks: asyncio.TaskGroup) -> None:
        async def run() -> None:
            try:
                await work
            finally:
                self._wake.set()

        task = tasks.create_task(run(), name=name)
        self._jobs.add(task)
        task.add_done_callback(self._jobs.discard)

    async def _job(self, job: batches_pb2.Job) -> None:
        try:
            await self._do(job)
        finally:
            self._job_batch_ids.discard(job.batch.id)

    async def _do(self, job: batches_pb2.Job) -> None:
        kinds: dict[int, tuple[str, Callable[[], Awaitable[None]]]] = {
            batches_pb2.Job.KIND_VALIDATE: (
                "validate",
                lambda: validate(
                    self._id,
                    job,
                    self._control,
                    self._store,
                    self._memory,
                    max_line_bytes=self._limits.max_line_bytes,
                    kept_response_bytes=self._limits.kept_response_bytes,
                ),
            ),
            batches_pb2.Job.KIND_FINALIZE: (
                "finalize",
                lambda: finalize(self._id, job, self._control, self._store, self._memory),
            ),
            batches_pb2.Job.KIND_REMOVE: ("remove", lambda: self._remove_results(job.batch.id)),
        }
        name, work = kinds.get(job.kind, ("", None))
        if work is None:
            return  # of a newer control plane
        backoff_s = _FIRST_BACKOFF_S
        while True:
            try:
                await work()
            except Gone:
                metrics.BATCH_JOBS.labels(name, "lost").inc()
                return
            except (Unavailable, Capacity):  # the runner holds it still, and tries again
                metrics.BATCH_JOBS.labels(name, "failed").inc()
                await asyncio.sleep(backoff_s * random.uniform(0.5, 1))
                backoff_s = min(_LAST_BACKOFF_S, 2 * backoff_s)
            except Exception:
                metrics.BATCH_JOBS.labels(name, "failed").inc()
                logger.exception("to %s the batch %s failed", name, job.batch.id)
                await asyncio.sleep(_LAST_BACKOFF_S)
            else:
                metrics.BATCH_JOBS.labels(name, "done").inc()
                return

    async def _remove_results(self, batch_id: str) -> None:
        await self._store.remove_folder(results_folder(batch_id))
        await self._control.removed(self._id, batch_id=batch_id)

    async def _remove_files(self, file_ids: list[str]) -> None:
        """Remove them, as far as that goes in time: then they are another runner's, and names may be given again."""
        until_s = time.monotonic() + _REMOVE_S
        removed: list[str] = []
        try:
            for id in file_ids:
                if time.monotonic() > until_s:
                    break
                await self._store.remove(file_object(id))
                removed.append(id)
        except AntiphonError as error:
            logger.warning("files that are gone could not be removed: %s", error)
            await asyncio.sleep(_FIRST_BACKOFF_S)
        try:
            if removed:
                await self._control.removed(self._id, file_ids=removed)
        except AntiphonError as error:
            logger.warning("that files are removed could not be told: %s", error)
            await asyncio.sleep(_FIRST_BACKOFF_S)

    async def _keep(self) -> None:
        """Say that the runner lives, and end the lines of batches that were stopped."""
        while True:
            await asyncio.sleep(self._lease_s / 10)
            if not (self._is_unsure or self._lines.count or self._jobs):
                continue
            try:
                async with self._telling:
                    stopped = await self._control.keep(self._id, self._lines.held, self._job_batch_ids)
                    self._is_unsure = False
            except AntiphonError as error:
                logger.warning("batch lines may be lost to others: %s", error)
                continue
            if stopped:
                await self._lines.stop(set(stopped))
                self._lines.hurry()
