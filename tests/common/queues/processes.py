"""A gateway and a worker that run as processes, so that tests can kill them.

    python -m tests.common.queues.processes gateway <redis url> <tickets>
    python -m tests.common.queues.processes worker <redis url> <worker id> <slots>

A gateway prints "waiting" once its tickets are queued, and "granted <worker> <lease>" for each grant, which it never
uses. A worker prints "ready" once it is listed.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

from services.common.queues import QueueClient, QueueLimits, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect
from tests.fixtures.wait import HANGS_AFTER_S

QUEUE = QueueName("thinker", "tiny")
GATEWAY_TTL_S = 0.8


async def gateway(url: str, tickets: str) -> None:
    client = QueueClient(connect(url), "doomed", QueueLimits(gateway_ttl_s=GATEWAY_TTL_S, heartbeat_s=0.2))

    async def ask(number: int) -> None:
        grant = await client.acquire(QUEUE, TicketSpec(request_id=f"{number}", tenant="acme"))
        print("granted", grant.worker_id, grant.lease_id, flush=True)  # noqa: T201

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(client.run())
        for number in range(int(tickets)):
            tasks.create_task(ask(number))
        while (await client.stats(QUEUE)).arrivals_per_s == 0:
            await asyncio.sleep(0.01)
        print("waiting", flush=True)  # noqa: T201


async def worker(url: str, worker_id: str, slots: str) -> None:
    keeper = SlotKeeper(
        connect(url), QUEUE, worker_id=worker_id, address=f"{worker_id}:1", slots=int(slots), worker_ttl_s=2.0
    )
    client = QueueClient(connect(url), f"{worker_id} looks")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(keeper.run())
        while worker_id not in {info.worker_id for info in await client.workers(QUEUE)}:
            await asyncio.sleep(0.01)
        print("ready", flush=True)  # noqa: T201


@asynccontextmanager
async def started(*arguments: str) -> AsyncGenerator[Process]:
    """Run a process during the block, and kill it at the end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.common.queues.processes", *arguments, stdout=PIPE
    )
    try:
        yield process
    finally:
        await kill(process)


async def kill(process: Process) -> None:
    """Send SIGKILL and wait: when this returns, the connections are closed."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


async def read_words(process: Process) -> list[str]:
    """Return the words of the next line that the process prints."""
    assert process.stdout is not None
    async with asyncio.timeout(HANGS_AFTER_S):
        return (await process.stdout.readline()).decode().split()


if __name__ == "__main__":
    asyncio.run({"gateway": gateway, "worker": worker}[sys.argv[1]](*sys.argv[2:]))
