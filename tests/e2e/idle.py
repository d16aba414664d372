"""Whether a stack is idle, read from its gateway's metrics."""

from __future__ import annotations

import re
from dataclasses import dataclass

import httpx

from tests.fixtures.stack import Stack

_BUSY = re.compile(r"^antiphon_queue_(?:busy_slots|depth_tickets)\{[^}]*\} (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Idle:
    """Whether no slot is busy and no ticket waits."""

    stack: Stack

    async def __call__(self) -> bool:
        return await busy_slots(self.stack) == 0


async def busy_slots(stack: Stack) -> float:
    """Return the number of busy slots and waiting tickets."""
    return sum(float(value) for value in _BUSY.findall(await scrape(stack)))


async def scrape(stack: Stack) -> str:
    async with httpx.AsyncClient() as client:
        return (await client.get(stack.metrics_url)).text
