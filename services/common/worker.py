"""What the three kinds of worker share: the slots that they offer to a queue."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from antiphon.v1 import common_pb2
from services.common.queues import QueueName, SlotKeeper
from services.common.redis_client import connect
from services.common.server import ServiceHost
from services.common.settings import WorkerSettings


@asynccontextmanager
async def slot_keeper(
    settings: WorkerSettings, stage: str, host: ServiceHost, card: common_pb2.ModelCard, slots: int | None = None
) -> AsyncGenerator[SlotKeeper]:
    """Offer the slots of this process to the queue of `stage` and the model. `taking_tickets` takes its tickets.

    slots: how many; None = as many as the settings say.
    """
    redis = connect(settings.redis)
    try:
        yield SlotKeeper(
            redis,
            QueueName(stage, card.name),
            worker_id=f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}",
            address=host.address,
            slots=settings.slots if slots is None else slots,
            card=card,
            grant_timeout_s=settings.grant_timeout_s,
            start_s=_age_s(),
            pod=(settings.pod_namespace, settings.pod_name),
        )
    finally:
        await redis.aclose()


def _age_s() -> float:
    """Return how long this process has run, from Linux' own record of its start (proc(5)); 0 elsewhere."""
    try:
        started_ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
    except OSError:
        return 0.0
    return max(uptime_s - started_ticks / os.sysconf("SC_CLK_TCK"), 0.0)


@asynccontextmanager
async def taking_tickets(
    host: ServiceHost,
    keeper: SlotKeeper,
    hand_over_after_s: float,
    *beside: Coroutine[Any, Any, None],
    wait_released: Callable[[], Awaitable[object]] | None = None,
) -> AsyncGenerator[None]:
    """Take tickets inside the block, until the host drains. Run `beside` in the background until the block ends.

    A drain ends calls that last longer than `hand_over_after_s`: they go on with another worker where there is one. For
    as long it also waits for `wait_released`: until no other stage needs what this worker holds.

    Add the servicer before: the server starts before the first ticket is taken.
    """
    await host.start()
    host.on_drain(keeper.drain)
    host.on_drain(lambda: keeper.hand_over(hand_over_after_s, wait_released))
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(keeper.run(), name="slots"),
            *(group.create_task(work, name=work.__name__) for work in beside),
        ]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
