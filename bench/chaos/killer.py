"""Ends or stops worker processes of a stack at random moments, one after the other."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from bench.chaos.victims import SERVER, Victim, Worker, may_lose, pick, ready_workers
from services.common.stages import STAGES
from services.local.stack import LocalStack

LONGEST_WAIT_S = 300.0
_EVERY_S = 0.2
# A stopped server is like one on a machine that stands still. It comes back, or is killed as a liveness probe would.
STOPPED_S = (12.0, 20.0)


class NeverReadyError(Exception):
    """No worker became ready to be lost."""


@dataclass(frozen=True)
class Loss:
    """`how`: SIGKILL, SIGSTOP, or SIGTERM, by which a worker moves its calls. `at_s`: Unix time, seconds."""

    victim: Victim
    how: Literal["kill", "stop", "move"]
    at_s: float


async def _stop() -> bool:
    return False


@dataclass
class Killer:
    """Makes `kills` losses, each on average `between_s` after it was possible, and `stops` (0 to 1) of them by SIGSTOP.

    live: returns the taken slots of the workers that the queues know, by process id. say: gets a line for each loss.
    aimed: only workers with a taken slot are lost. go_on: asked after each loss from the last of `kills` on; while it
    is true, more are made.
    """

    stack: LocalStack
    replicas: int
    live: Callable[[], Awaitable[Mapping[int, int]]]
    say: Callable[[str], None]
    kills: int
    between_s: float
    stops: float
    seed: int
    aimed: bool = False
    go_on: Callable[[], Awaitable[bool]] = _stop
    losses: list[Loss] = field(default_factory=list[Loss])
    _lost: set[int] = field(default_factory=set[int])

    async def run(self) -> None:
        """Return after the last loss, when every stopped process is ended or goes on. Raise NeverReadyError."""
        chance = random.Random(f"{self.seed} killer")
        async with asyncio.TaskGroup() as tasks:
            while len(self.losses) < self.kills or await self.go_on():
                await self._until(self._may_go_on)
                await asyncio.sleep(chance.uniform(0.5, 1.5) * self.between_s)
                victim = pick(await self._until(self._may_go_on, aimed=self.aimed), chance)
                stops = chance.random() < self.stops
                self._lose(victim, "stop" if stops else "kill")
                if stops and victim.role == SERVER:
                    tasks.create_task(self._end_stop(victim, chance.uniform(*STOPPED_S), chance.random() < 0.5))

    def _may_go_on(self, ready: Sequence[Worker]) -> bool:
        """With one worker a stage, wait for all of them: else some stage is always away, and nothing is answered."""
        return len(ready) == len(STAGES) if self.replicas == 1 else bool(ready)

    async def all_ready(self, workers: int) -> None:
        """Wait until so many workers are ready again. Raise NeverReadyError."""
        await self._until(lambda ready: len(ready) == workers)

    async def _until(self, enough: Callable[[list[Worker]], bool], *, aimed: bool = False) -> list[Worker]:
        """Wait for the workers that may be lost to be `enough`, and return them. `aimed`: wait until some of them are
        busy, and return those."""
        try:
            async with asyncio.timeout(LONGEST_WAIT_S):
                while True:
                    # Process ids come again: those of workers that are gone are no longer lost ones.
                    self._lost &= {process.pid for process in self.stack.processes if process.pid is not None}
                    ready = ready_workers(self.stack.processes, self._lost)
                    found = may_lose(ready, await self.live(), self.replicas)
                    chosen = [worker for worker in found if worker.busy or not aimed]
                    if enough(found) and chosen:
                        return chosen
                    await asyncio.sleep(_EVERY_S)
        except TimeoutError:
            raise NeverReadyError(f"workers were not ready within {LONGEST_WAIT_S:g} s") from None

    def _lose(self, victim: Victim, how: Literal["kill", "stop"]) -> None:
        if victim.ends_the_worker:
            self._lost.add(victim.worker_pid)
        self.losses.append(Loss(victim, how, time.time()))
        os.kill(victim.pid, signal.SIGKILL if how == "kill" else signal.SIGSTOP)
        self.say(f"{len(self.losses)}/{self.kills} {how} {victim.worker} {victim.role}")

    async def _end_stop(self, victim: Victim, after_s: float, goes_on: bool) -> None:
        await asyncio.sleep(after_s)
        os.kill(victim.pid, signal.SIGCONT if goes_on else signal.SIGKILL)
        self.say(f"  {victim.worker} {'goes on' if goes_on else 'is killed'} after {after_s:.0f} s")
        if goes_on:
            self._lost.discard(victim.worker_pid)
