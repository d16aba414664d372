"""Grants a second, and the time to a grant while slots are idle, through the real client and keeper.

The server, one process with all workers and one with a gateway run beside each other. The gateway names each lease to
the workers' process over a socket, as its call would; the worker opens it and closes it after `hold_s`.

    python -m bench.queues.grants <redis url> <workers> <slots> <hold s>       the workers' process
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from bench.queues.fleet import server
from services.common.errors import Gone
from services.common.queues import Grant, QueueClient, QueueLimits, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect
from tests.fixtures.wait import wait_until

QUEUE = QueueName("thinker", "bench")
LIMITS = QueueLimits(max_waiting=100_000, max_waiting_per_tenant=100_000)


async def workers(url: str, count: str, slots: str, hold_s: str) -> None:
    """Run keepers, and open each lease that the socket names: a line "<worker id> <lease id>"."""
    keepers: dict[str, SlotKeeper] = {}
    calls = set[asyncio.Task[None]]()

    async def serve(keeper: SlotKeeper, lease_id: str) -> None:
        try:
            with keeper.open(lease_id):
                await asyncio.sleep(float(hold_s))
        except Gone:
            print("gone", flush=True)

    async def read(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            worker_id, lease_id = line.decode().split()
            call = asyncio.create_task(serve(keepers[worker_id], lease_id))
            calls.add(call)
            call.add_done_callback(calls.discard)

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(count)):
            keeper = SlotKeeper(connect(url), QUEUE, worker_id=f"w{number}", address="-", slots=int(slots))
            keepers[keeper.worker_id] = keeper
            tasks.create_task(keeper.run())
        listening = await asyncio.start_server(read, "127.0.0.1", 0)
        print(listening.sockets[0].getsockname()[1], flush=True)


class Gateway:
    """Asks for slots, and counts."""

    def __init__(self, client: QueueClient, calls: asyncio.StreamWriter, tenants: int) -> None:
        self.client = client
        self._calls = calls
        self._random = random.Random(1)
        self._tenants = tenants
        self.waits_ms: list[float] = []

    async def ask(self) -> Grant:
        tenant = f"tenant-{self._random.randrange(self._tenants)}"
        began_s = time.perf_counter()
        grant = await self.client.acquire(QUEUE, TicketSpec("request", tenant, cost=100.0))
        self.waits_ms.append((time.perf_counter() - began_s) * 1000)
        self._calls.write(f"{grant.worker_id} {grant.lease_id}\n".encode())
        return grant

    async def ask_on_and_on(self, until_s: float) -> None:
        async with asyncio.TaskGroup() as settling:  # as a gateway, whose turns do not wait for it
            while time.perf_counter() < until_s:
                settling.create_task(self.client.settle(await self.ask(), 130.0))

    async def ask_at_a_rate(self, rate_per_s: float, until_s: float) -> None:
        async with asyncio.TaskGroup() as tasks:
            due_s = time.perf_counter()
            while due_s < until_s:
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                tasks.create_task(self.ask())
                due_s += self._random.expovariate(rate_per_s)


@asynccontextmanager
async def fleet(url: str, count: int, slots: int, hold_s: float, tenants: int) -> AsyncGenerator[tuple[Gateway, int]]:
    """Run workers and a gateway inside the block. Yield the gateway and the workers' process id."""
    async with AsyncExitStack() as stack:
        arguments = ("-m", "bench.queues.grants", url, str(count), str(slots), str(hold_s))
        process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE)
        stack.callback(process.kill)
        port = int(await _output_of(process).readline())
        _, calls = await asyncio.open_connection("127.0.0.1", port)
        redis = connect(url)
        stack.push_async_callback(redis.aclose)
        client = QueueClient(redis, "gateway", LIMITS)
        running = asyncio.create_task(client.run())
        stack.callback(running.cancel)
        await wait_until(lambda: _shows(client, count), within_s=30)
        yield Gateway(client, calls, tenants), process.pid


async def _shows(client: QueueClient, workers: int) -> bool:
    return (await client.stats(QUEUE)).workers == workers


def _output_of(process: Process) -> asyncio.StreamReader:
    if process.stdout is None:
        raise ValueError("the process has no pipe")
    return process.stdout


async def grants(
    kind: str, *, count: int = 100, slots: int = 8, tenants: int = 1000, busy_s: float = 10.0
) -> dict[str, Any]:
    """Return the grants a second of many clients that ask on and on, and what each cost the three processes."""
    with server(kind) as running, running.client() as redis:
        async with fleet(running.url, count, slots, 0.0, tenants) as (gateway, workers_pid):
            await gateway.ask_on_and_on(time.perf_counter() + 1.0)
            before, began_s, server_us = len(gateway.waits_ms), time.perf_counter(), _server_us(redis)
            cpu_s = (time.process_time(), _cpu_s(workers_pid))
            async with asyncio.TaskGroup() as tasks:
                for _ in range(512):
                    tasks.create_task(gateway.ask_on_and_on(began_s + busy_s))
            count_of_grants, took_s = len(gateway.waits_ms) - before, time.perf_counter() - began_s
            used_us = (_server_us(redis)[0] - server_us[0]) / count_of_grants
            script_us = (_server_us(redis)[1] - server_us[1]) / count_of_grants
            return {
                "workers": count,
                "slots": count * slots,
                "tenants": tenants,
                "grants_per_s": round(count_of_grants / took_s),
                "server_us_per_grant": round(used_us, 1),
                "scripts_us_per_grant": round(script_us, 1),
                "grants_per_s_of_one_server_core": round(1e6 / used_us),
                "gateway_us_per_grant": round((time.process_time() - cpu_s[0]) / count_of_grants * 1e6, 1),
                "workers_us_per_grant": round((_cpu_s(workers_pid) - cpu_s[1]) / count_of_grants * 1e6, 1),
            }


async def waits(kind: str, *, rate_per_s: float = 200.0, seconds: float = 10.0) -> dict[str, Any]:
    """Return how long a grant takes while slots are idle."""
    with server(kind) as running:
        async with fleet(running.url, 100, 8, 0.05, 1000) as (gateway, _):
            await gateway.ask_at_a_rate(rate_per_s, time.perf_counter() + 1.0)
            gateway.waits_ms.clear()
            await gateway.ask_at_a_rate(rate_per_s, time.perf_counter() + seconds)
            waited = sorted(gateway.waits_ms)
            return {
                "rate_per_s": rate_per_s,
                "grants": len(waited),
                "p50_ms": round(waited[len(waited) // 2], 2),
                "p99_ms": round(waited[int(len(waited) * 0.99)], 2),
            }


def _server_us(redis: Any) -> tuple[float, float]:
    """Return the processor time of the server, and of its scripts, µs."""
    info = redis.info("commandstats", "cpu")
    cpu_s = info["used_cpu_user"] + info["used_cpu_sys"]
    return cpu_s * 1e6, info["cmdstat_fcall"]["usec"]


def _cpu_s(pid: int) -> float:
    utime, stime = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[11:13]
    return (int(utime) + int(stime)) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    asyncio.run(workers(*sys.argv[1:]))
