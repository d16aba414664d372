"""Writes the pod-deletion-cost of worker pods: a ReplicaSet that shrinks removes the pods with the lowest cost first.

A pod costs 100 for each busy slot of its worker, and 1 for each second that an open call has run: the work that another
worker would have to repeat.

Kubernetes asks not to update the annotation often. So costs are written when the policy is about to take replicas away,
and every `refresh_s` for others that scale a stage (`kubectl scale`, a rollout). A cost is only written when it differs
from the last one by more than STEP, and at most `patches_per_s` are written a second.

One scaler writes: the one that holds the lease of the namespace. The others announce what their policies do.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

from antiphon.v1 import queue_pb2
from services.common.errors import Forbidden, NotFound, Unavailable
from services.common.queues.tickets import QueueName
from services.scaler import metrics

ANNOTATION = "controller.kubernetes.io/pod-deletion-cost"
SLOT_COST = 100
_HIGHEST = 2**31 - 1

STEP = 0.2
"""A part of the larger of two costs."""

LOOK_S = 1.0
LEASE_S = 30.0
ANNOUNCE_S = 0.2
"""An answer to KEDA waits for it."""
BATCH_S = 10.0
"""How long one queue is written for before the lease is renewed and others have their turn."""

FORBIDDEN_S = 600.0
"""How long nothing is written once the API server has refused."""
FIRST_BACKOFF_S, LONGEST_BACKOFF_S = 5.0, 300.0
MOST_FAILURES = 3
"""So many failed patches in a row are the API server's fault."""

logger = logging.getLogger(__name__)


class Workers(Protocol):
    """services.common.queues' LiveWorkers is one. Both methods raise Unavailable."""

    async def queues(self) -> list[QueueName]: ...

    async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]: ...


class Lease(Protocol):
    """services.common.queues' CostWriterLease is one. All methods raise Unavailable."""

    async def hold(self, ttl_s: float) -> list[QueueName] | None: ...

    async def announce(self, queue: QueueName) -> None: ...

    async def release(self) -> None: ...


class Pods(Protocol):
    async def annotate(self, pod: str, name: str, value: str) -> None:
        """Set an annotation of a pod.

        Raise NotFound for a pod that is gone, Forbidden where this process may not, Unavailable for any other failure.
        """
        ...


def cost_of(worker: queue_pb2.WorkerInfo) -> int:
    return min(round(SLOT_COST * worker.busy + worker.progress_s), _HIGHEST)


def costs_of(workers: Iterable[queue_pb2.WorkerInfo], namespace: str) -> dict[str, int]:
    """Return the cost of each pod of the namespace. A worker that drains has none: its pod goes already."""
    return {
        worker.pod_name: cost_of(worker)
        for worker in workers
        if worker.pod_name and worker.pod_namespace == namespace and not worker.draining
    }


def changed(costs: dict[str, int], written: dict[str, int]) -> list[str]:
    """Return the pods with a cost to write, the largest change first. Nobody knows what a pod without one has."""

    def change(pod: str) -> int:
        return abs(costs[pod] - written.get(pod, 0))

    due = [pod for pod in costs if pod not in written or change(pod) > STEP * max(costs[pod], written[pod])]
    return sorted(due, key=change, reverse=True)


class Pace:
    """Spreads calls evenly: at most `per_s` a second."""

    def __init__(self, per_s: float) -> None:
        self._interval_s = 1 / per_s
        self._next_s = float("-inf")

    def take(self, now_s: float) -> float:
        """Take the next place. Return the seconds until it."""
        at_s = max(self._next_s, now_s)
        self._next_s = at_s + self._interval_s
        return at_s - now_s


class CircuitBreaker:
    """Stops all patches for a while once the API server refuses one, or fails several in a row.

    It logs each of the two once, until a patch succeeds.
    """

    def __init__(self) -> None:
        self._open_until_s = float("-inf")
        self._failures = 0
        self._backoff_s = FIRST_BACKOFF_S
        self._logged: type[Unavailable | Forbidden] | None = None

    def is_open(self, now_s: float) -> bool:
        return now_s < self._open_until_s

    def fail(self, now_s: float, error: Unavailable | Forbidden) -> float:
        """Note a failed patch. Return for how many seconds no other may follow; 0 = only this pod may be the reason."""
        self._failures += 1
        if isinstance(error, Forbidden):
            length_s = FORBIDDEN_S
        elif self._failures < MOST_FAILURES and error.retry_after_s is None:
            return 0.0
        else:
            length_s = max(self._backoff_s, error.retry_after_s or 0.0)
            self._backoff_s = min(2 * self._backoff_s, LONGEST_BACKOFF_S)
        self._open_until_s = now_s + length_s
        if self._logged is not type(error):
            self._logged = type(error)
            logger.warning("no pod-deletion-cost is written for %g s or longer: %s", length_s, error.message)
        return length_s

    def succeed(self) -> None:
        self._failures = 0
        self._backoff_s = FIRST_BACKOFF_S
        if self._logged is not None:
            self._logged = None
            logger.info("pod-deletion-costs are written again")


class DeletionCosts:
    """Writes the costs of the pods of one namespace. `run` must be running, in each scaler."""

    def __init__(
        self, workers: Workers, pods: Pods, lease: Lease, *, namespace: str, refresh_s: float, patches_per_s: float
    ) -> None:
        self._workers = workers
        self._pods = pods
        self._lease = lease
        self._namespace = namespace
        self._refresh_s = refresh_s
        self._pace = Pace(patches_per_s)
        # Queues to look at, in this order.
        self._due: dict[QueueName, None] = {}
        # Pod → the cost that this scaler wrote last.
        self._written: dict[QueueName, dict[str, int]] = {}
        # Monotonic seconds.
        self._refreshed_s = float("-inf")
        self._breaker = CircuitBreaker()

    async def announce(self, queue: QueueName) -> None:
        """Have the costs written soon: the queue's stage is about to lose replicas. Lost while Redis is away."""
        with suppress(Unavailable, TimeoutError):
            async with asyncio.timeout(ANNOUNCE_S):
                await self._lease.announce(queue)

    async def run(self) -> None:
        """Run until cancelled. Then another scaler may write at once."""
        try:
            while True:
                pause_s = await self.step()
                await asyncio.sleep(pause_s)
        finally:
            with suppress(Unavailable):
                await self._lease.release()

    async def step(self) -> float:
        """Write the costs of the first queue that is due. Return the seconds until the next step."""
        try:
            announced = await self._lease.hold(LEASE_S)
            if announced is None:
                self._forget()
                return LOOK_S
            await self._note_due(announced)
            if not self._due or self._breaker.is_open(time.monotonic()):
                return LOOK_S
            queue = next(iter(self._due))
            workers = await self._workers.workers(queue)
        except Unavailable:
            return LOOK_S
        del self._due[queue]
        if not await self._write(queue, costs_of(workers, self._namespace)):
            self._due[queue] = None
        return 0.0 if self._due else LOOK_S

    async def _note_due(self, announced: list[QueueName]) -> None:
        self._due = dict.fromkeys(announced) | self._due
        now_s = time.monotonic()
        if now_s - self._refreshed_s >= self._refresh_s:
            queues = await self._workers.queues()
            self._due |= dict.fromkeys(queues)
            self._written = {queue: written for queue, written in self._written.items() if queue in queues}
            self._refreshed_s = now_s

    def _forget(self) -> None:
        """Forget what was written: another scaler writes now."""
        self._due.clear()
        self._written.clear()
        self._refreshed_s = float("-inf")

    async def _write(self, queue: QueueName, costs: dict[str, int]) -> bool:
        """Write costs that have changed, for BATCH_S. Return whether each was tried."""
        known = self._written.get(queue, {})
        written = self._written[queue] = {pod: cost for pod, cost in known.items() if pod in costs}
        until_s = time.monotonic() + BATCH_S
        for pod in changed(costs, written):
            if time.monotonic() >= until_s:
                return False
            await asyncio.sleep(self._pace.take(time.monotonic()))
            try:
                await self._patch(pod, costs[pod])
            except (Forbidden, Unavailable) as error:
                if self._breaker.fail(time.monotonic(), error):
                    return False
                logger.info("the deletion cost of pod %s was not written: %s", pod, error.message)
            else:
                written[pod] = costs[pod]
                self._breaker.succeed()
        return True

    async def _patch(self, pod: str, cost: int) -> None:
        """Patch a pod; one that is gone needs no patch. Raise Forbidden or Unavailable."""
        outcome = "failed"
        try:
            await self._pods.annotate(pod, ANNOTATION, str(cost))
            outcome = "written"
        except NotFound:  # its worker's heartbeat ends soon
            outcome = "gone"
        except Forbidden:
            outcome = "forbidden"
            raise
        finally:
            metrics.POD_PATCHES.labels(outcome).inc()
