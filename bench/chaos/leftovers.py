"""What should be gone: busy slots and held blobs after the load, processes and files after the stack."""

from __future__ import annotations

import asyncio
import os
import re
import time
import urllib.request
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName
from services.common.redis_client import RedisClient
from services.common.stages import STAGES
from services.local.process import ManagedProcess
from tests.fixtures.processes import has_ended

SETTLE_S = 60.0
"""Slots and blobs may take so long to be free after the last answer: unopened leases expire after 5 s."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108  # it is looked at, not written to

HELD = {
    "thinker": (
        "antiphon_thinker_running_requests",
        "antiphon_thinker_waiting_requests",
        "antiphon_thinker_hidden_states_bytes",
    ),
    "talker": ("antiphon_talker_live_streams", "antiphon_talker_kv_blocks_in_use"),
    "preprocess": ("antiphon_preprocess_held_requests",),
}
"""The gauges of each worker that are 0 once it is idle."""


class Queues:
    """The queues of one model, as the stack's Redis has them."""

    def __init__(self, redis: RedisClient, model: str) -> None:
        self._client = QueueClient(redis, "chaos")
        self._names = [QueueName(stage, model) for stage in STAGES]

    async def live(self) -> dict[int, int]:
        """Return, by the process ids of the workers that beat and do not drain, how many of their slots are taken; none
        where Redis does not answer."""
        try:
            workers = [worker for name in self._names for worker in await self._client.workers(name)]
        except Unavailable:
            return {}
        return {int(worker.worker_id.rsplit("-", 2)[1]): worker.busy for worker in workers if not worker.draining}

    async def taken(self) -> dict[str, int]:
        """Return, by stage, the slots that workers report as busy, and the tickets that wait."""
        found: dict[str, int] = {}
        for name in self._names:
            busy = sum(worker.busy for worker in await self._client.workers(name))
            if total := busy + (await self._client.stats(name)).depth:
                found[name.stage] = total
        return found

    async def slots(self) -> dict[str, int]:
        """Return, by stage, the slots that workers offer."""
        return {name.stage: sum(w.slots for w in await self._client.workers(name)) for name in self._names}


@dataclass
class Idle:
    """What is still taken after the load: slots by stage, and the gauges that are not 0, by worker."""

    slots_lost: Mapping[str, int] = field(default_factory=dict[str, int])
    held: Mapping[str, float] = field(default_factory=dict[str, float])


async def idle(queues: Queues, processes: Sequence[ManagedProcess], slots_before: Mapping[str, int]) -> Idle:
    """Wait until nothing is taken, but not longer than SETTLE_S, and return what is."""
    until_s = time.monotonic() + SETTLE_S
    while True:
        taken, slots = await queues.taken(), await queues.slots()
        lost = {
            stage: missing
            for stage, before in slots_before.items()
            if (missing := taken.get(stage, 0) + before - slots.get(stage, 0))
        }
        found = Idle(lost, await asyncio.to_thread(_held, processes))
        if not (found.slots_lost or found.held) or time.monotonic() > until_s:
            return found
        await asyncio.sleep(0.5)


def _held(processes: Sequence[ManagedProcess]) -> dict[str, float]:
    found: dict[str, float] = {}
    for process in processes:
        gauges = HELD.get(process.spec.name.partition("-")[0])
        if gauges and process.ports:
            values = _scrape(process.ports["metrics"])
            found |= {f"{process.spec.name} {name}": values[name] for name in gauges if values[name]}
    return found


def _scrape(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text: str = answer.read().decode()
    return {name: float(value) for name, value in re.findall(r"^(\w+) (\S+)$", text, re.MULTILINE)}


def processes_of(sessions: Collection[int]) -> list[int]:
    """Return the living processes of these sessions."""
    found = (int(path.name) for path in Path("/proc").glob("[0-9]*"))
    return [pid for pid in found if _session(pid) in sessions and not has_ended(pid)]


def processes_left(sessions: Collection[int]) -> list[str]:
    """Return the command of each living process of these sessions."""
    return [_read(pid, "cmdline").replace("\0", " ").strip() for pid in processes_of(sessions)]


def shared_memory_of(sessions: Collection[int]) -> set[int]:
    """Return the inodes in SHARED_MEMORY that the processes of these sessions have mapped. Other programs of this
    machine have some, too. A semaphore is mapped before it has its name, so names would not do."""
    lines = (line.split() for pid in processes_of(sessions) for line in _read(pid, "maps").splitlines())
    return {int(line[4]) for line in lines if len(line) > 5 and line[5].startswith(f"{SHARED_MEMORY}/")}


def shared_memory_left(used: Collection[int]) -> list[str]:
    """Return the names of these inodes that are still there."""
    return sorted(entry.name for entry in os.scandir(SHARED_MEMORY) if entry.inode() in used)


def files_left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
    except OSError:
        return ""
