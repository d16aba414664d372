"""Restarts one process after the other with SIGTERM."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from services.local.process import ManagedProcess
from tests.fixtures.processes import has_ended

LONGEST_S = 300.0
"""How long one restart may take. Then the run fails with TimeoutError."""
_EVERY_S = 0.02


@dataclass(frozen=True)
class Restart:
    """at_s: when SIGTERM was sent, Unix time. The others are seconds from then until the process was gone, and until
    its replacement was ready."""

    name: str
    pid: int
    at_s: float
    gone_s: float
    ready_s: float


async def restart(process: ManagedProcess, serves: Callable[[ManagedProcess], Awaitable[bool]]) -> Restart:
    """Restart a process, and wait until it `serves` again. Raise TimeoutError."""
    pid, at_s = process.pid, time.time()
    if pid is None:
        raise RuntimeError(f"{process.spec.name} does not run")
    os.kill(pid, signal.SIGTERM)
    async with asyncio.timeout(LONGEST_S):
        while not has_ended(pid):  # noqa: ASYNC110  # another process
            await asyncio.sleep(_EVERY_S)
        gone_s = time.time() - at_s
        while process.pid in (pid, None) or not process.ports or not await serves(process):  # noqa: ASYNC110
            await asyncio.sleep(_EVERY_S)
    return Restart(process.spec.name, pid, at_s, gone_s, time.time() - at_s)
