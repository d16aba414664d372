"""Whether a stack is idle, read from its gateway's metrics."""

from __future__ import annotations

import asyncio
import math
import re
import urllib.request
from dataclasses import dataclass

from tests.fixtures.stack import Stack
from tests.fixtures.wait import HANGS_AFTER_S

_BUSY = re.compile(r"^antiphon_queue_(?:busy_slots|depth_tickets)\{[^}]*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Idle:
    """Whether no slot is busy and no ticket waits."""

    stack: Stack

    async def __call__(self) -> bool:
        return await busy_slots(self.stack.metrics_url) == 0


async def busy_slots(metrics_url: str) -> float:
    """Return the number of busy slots and waiting tickets; infinity where the gateway at that URL does not know."""
    found = _BUSY.findall(await asyncio.to_thread(_get, metrics_url))
    return sum(map(float, found)) if found else math.inf


async def scrape(stack: Stack, process: str = "gateway") -> str:
    """Return what a process of the stack shows of its metrics. The gateway's include the queues'."""
    return await asyncio.to_thread(_get, f"http://127.0.0.1:{stack.metrics_ports[process]}/metrics")


def _get(url: str) -> str:
    # Not httpx: a client of its own takes 20 ms of processor time for each call, and tests wait by calling.
    with urllib.request.urlopen(url, timeout=HANGS_AFTER_S) as answer:
        return answer.read().decode()
