"""The worker processes of a stack, by stage and role, and which of them may be lost next."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from services.common.stages import STAGES
from services.local.process import ManagedProcess
from tests.fixtures.processes import children, has_ended

SERVER = "server"
"""The worker's first process: it serves gRPC, and for a talker it holds the engine, too."""
_WORKER_ROLES = (SERVER, "engine core", "vLLM worker")
"""A worker ends with any of these. What else it starts, it replaces itself."""


@dataclass(frozen=True)
class Victim:
    """One process. `worker` is the supervised process ("thinker-0") that it is or belongs to, `worker_pid` its id."""

    stage: str
    worker: str
    worker_pid: int
    role: str
    pid: int

    @property
    def ends_the_worker(self) -> bool:
        return self.role in _WORKER_ROLES


@dataclass(frozen=True)
class Worker:
    """A supervised worker process that is ready. `busy`: how many of its slots are taken."""

    stage: str
    name: str
    pid: int
    busy: int = 0


def stage_of(name: str) -> str:
    """ "thinker-1" → "thinker"; "" for a process that is no worker."""
    return next((stage for stage in STAGES if name == stage or name.startswith(f"{stage}-")), "")


def ready_workers(processes: Iterable[ManagedProcess], lost: Collection[int]) -> list[Worker]:
    """Return the workers that are ready, without those that lose a process whose end the supervisor has not seen."""
    return [
        Worker(stage, process.spec.name, process.pid)
        for process in processes
        if (stage := stage_of(process.spec.name)) and process.ports and process.pid and process.pid not in lost
    ]


def may_lose(ready: Iterable[Worker], live: Mapping[int, int], replicas: int) -> list[Worker]:
    """Return the workers that may be lost now: all of the stage's are ready, and their heartbeats are in the queue.

    live: taken slots by the process ids of the workers that the queues know.
    """
    by_stage: dict[str, list[Worker]] = {}
    for worker in ready:
        if worker.pid in live:
            by_stage.setdefault(worker.stage, []).append(replace(worker, busy=live[worker.pid]))
    return [worker for workers in by_stage.values() if len(workers) == replicas for worker in workers]


def pick(workers: Iterable[Worker], chance: random.Random) -> Victim:
    """Pick a stage first, so that each is lost as often; then one of its workers, then one of that one's processes."""
    by_stage: dict[str, list[Worker]] = {}
    for worker in workers:
        by_stage.setdefault(worker.stage, []).append(worker)
    worker = chance.choice(by_stage[chance.choice(sorted(by_stage))])
    by_role: dict[str, list[int]] = {}
    for pid, role in roles(worker).items():
        by_role.setdefault(role, []).append(pid)
    role = chance.choice(sorted(by_role))
    return Victim(worker.stage, worker.name, worker.pid, role, chance.choice(by_role[role]))


def roles(worker: Worker) -> Mapping[int, str]:
    """Return the role of each of the worker's processes: itself and what it started."""
    found = {worker.pid: SERVER}
    pending = [worker.pid]
    while pending:
        parent = pending.pop()
        for pid in children(parent):
            if not has_ended(pid):
                found[pid] = _role(worker.stage, pid, found[parent])
                pending.append(pid)
    return found


def _role(stage: str, pid: int, parent_role: str) -> str:
    name, command = _read(pid, "comm"), _read(pid, "cmdline")
    if stage == "preprocess":
        return "decoder" if parent_role == "fork server" else "fork server" if "forkserver" in command else "child"
    if "resource_tracker" in command:
        return "resource tracker"
    if name.startswith("VLLM"):
        return "vLLM worker" if "Worker" in name or parent_role == "engine core" else "engine core"
    return "child"


def _read(pid: int, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""
