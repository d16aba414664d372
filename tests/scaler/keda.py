"""An imitation of KEDA and its HPA, with processes in place of pods.

KEDA listens to StreamIsActive and starts the first replica. At each poll it calls GetMetrics and IsActive, and it goes
to zero once the stage was inactive for the cooldown. The HPA computes ceil(value / target) with a tolerance of a tenth,
and stays between one and the maximum. It removes the replica with most streams first, the worst choice that Kubernetes
could make. Periods are a fiftieth of the usual ones.
"""

from __future__ import annotations

import asyncio
import math
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc.aio

from externalscaler import externalscaler_pb2
from tests.fixtures.wait import HANGS_AFTER_S
from tests.scaler.conftest import Scaler, environment

HPA_SYNC_S = 0.3
POLL_S = 0.6
COOLDOWN_S = 0.5


class Keda:
    """KEDA with its HPA: await `run` until it is cancelled, then `stop`. `streams_on` counts the streams of a pid."""

    def __init__(
        self,
        scaler: Scaler,
        ref: externalscaler_pb2.ScaledObjectRef,
        most: int,
        redis_url: str,
        streams_on: Callable[[int], int],
    ) -> None:
        self._scaler = scaler
        self._ref = ref
        self._most = most
        self._redis_url = redis_url
        self._streams_on = streams_on
        self._live: list[asyncio.subprocess.Process] = []
        self._ending: list[asyncio.subprocess.Process] = []
        self._active_s = time.monotonic()
        self._scaling = asyncio.Lock()
        # Replicas after each change; and the streams on each replica when it was told to stop.
        self.history: list[int] = []
        self.streams_told_to_go = 0

    @property
    def replicas(self) -> int:
        return len(self._live)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._listen(), name="push")
            tasks.create_task(self._poll(), name="poll")
            tasks.create_task(self._hpa(), name="hpa")

    async def stop(self) -> list[int | None]:
        """Stop all live replicas. Return the exit statuses of every replica that ran."""
        await self._scale(0)
        return [await asyncio.wait_for(process.wait(), HANGS_AFTER_S) for process in self._ending]

    async def _listen(self) -> None:
        stream: Any = self._scaler.stub.StreamIsActive(self._ref)
        while (answer := await stream.read()) is not grpc.aio.EOF:
            await self._note(answer.result)

    async def _poll(self) -> None:
        while True:
            await self._scaler.wanted(self._ref)
            await self._note(await self._scaler.active(self._ref))
            await asyncio.sleep(POLL_S)

    async def _note(self, active: bool) -> None:
        if active:
            self._active_s = time.monotonic()
            if not self._live:
                await self._scale(1)
        elif self._live and time.monotonic() - self._active_s >= COOLDOWN_S:
            await self._scale(0)

    async def _hpa(self) -> None:
        while True:
            if self._live:  # the HPA is off at zero replicas
                ratio = await self._scaler.wanted(self._ref)
                if self._live and abs(ratio / len(self._live) - 1) > 0.1:
                    await self._scale(min(max(math.ceil(ratio), 1), self._most))
            await asyncio.sleep(HPA_SYNC_S)

    async def _scale(self, replicas: int) -> None:
        async with self._scaling:  # starting replicas count, so that concurrent calls start no second one
            await self._change(replicas - len(self._live))

    async def _change(self, missing: int) -> None:
        for _ in range(-missing):
            worst = max(self._live, key=lambda process: self._streams_on(process.pid))
            self._live.remove(worst)
            self._ending.append(worst)
            self.streams_told_to_go += self._streams_on(worst.pid)
            worst.send_signal(signal.SIGTERM)
        if missing > 0:
            started = [self._start() for _ in range(missing)]
            self._live += await asyncio.gather(*started)
        if missing:
            self.history.append(len(self._live))

    async def _start(self) -> asyncio.subprocess.Process:
        env = environment(redis_url=self._redis_url, model="tiny", slots=2, drain_s=30, log_level="WARNING")
        return await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.scaler.stage", env=env)
