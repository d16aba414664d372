"""The leases of one turn: on a slot of a worker for each stage, renewed elsewhere where a worker did not begin."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from opentelemetry import trace

from services.common.errors import AntiphonError, Gone, Unavailable, WorkerLost
from services.common.queues.tickets import Grant, QueueName, TicketSpec
from services.gateway import metrics
from services.gateway.turn.ports import Slots
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.timings import TurnTimes

MAX_TRIES = 3

logger = logging.getLogger(__name__)
tracer = trace.get_tracer("antiphon")
R = TypeVar("R")


@dataclass(slots=True)
class Attempt:
    """A stage's run on one worker."""

    grant: Grant
    # The worker has answered. From here on a failure is a loss, and the worker frees the slot.
    began: bool = False


class Leases:
    """Leases a slot for each stage of one turn."""

    def __init__(self, slots: Slots, request: TurnRequest, model: str, times: TurnTimes) -> None:
        self._slots = slots
        self._context = request.context
        self._tenant_label = request.tenant_label
        self._model = model
        self._times = times
        # Addresses of the workers that hold something for this turn, by stage.
        self.touched: dict[str, set[str]] = {}
        self._attempts: dict[str, Attempt] = {}

    async def run(self, stage: str, cost: float, call: Callable[[Attempt], Awaitable[R]]) -> R:
        """Lease a slot and run `call` on its worker. Where that worker does not begin, try another.

        Raise what `call` raises, and what the wait for a slot raises.
        """
        grant = await self._acquire(stage, cost)
        for tries in range(1, MAX_TRIES + 1):
            attempt = Attempt(grant)
            try:
                return await call(attempt)
            except (Gone, Unavailable) as error:
                if attempt.began or tries == MAX_TRIES or error.code == "blob_gone":
                    raise _as_loss(error, stage) from None
                logger.warning("%s on %s did not begin (%s): asking again", stage, grant.worker_id, error.code)
            finally:
                if not attempt.began:  # a no-op if the worker holds the slot; it may never have heard of the lease
                    self._slots.give_back(grant)
            metrics.STAGE_RETRIES.labels(stage).inc()
            with self._waiting(stage):
                grant = await self._slots.reacquire(grant)
        raise AssertionError("unreachable")

    async def wake(self, stages: Iterable[str]) -> None:
        """Start the workers of these stages now, all at once, rather than each when the turn reaches it."""
        for stage in sorted(stages):
            await self._slots.wake(QueueName(stage, self._model))

    def note_call(self, stage: str, attempt: Attempt) -> None:
        """Note that the worker is about to be called."""
        self.touched.setdefault(stage, set()).add(attempt.grant.address)
        self._attempts[stage] = attempt
        self._times.began(stage)

    async def settle(self, stage: str, cost: float) -> None:
        """Charge what the stage really cost, in its own unit. A slot that was given back has been refunded."""
        attempt = self._attempts.get(stage)
        if attempt is not None and attempt.began:
            await self._slots.settle(attempt.grant, cost)

    async def _acquire(self, stage: str, cost: float) -> Grant:
        context = self._context
        spec = TicketSpec(
            request_id=context.request_id,
            tenant=context.tenant,
            priority=context.priority,
            cost=cost,
            deadline_unix_ms=context.deadline_unix_ms,
            affinity=context.affinity,
        )
        with tracer.start_as_current_span(f"antiphon.gateway.queue.{stage}"), self._waiting(stage):
            grant = await self._slots.acquire(QueueName(stage, self._model), spec)
        self._times.granted(stage, self._tenant_label, grant.waited_s)
        return grant

    @contextmanager
    def _waiting(self, stage: str) -> Generator[None]:
        waiting = metrics.WAITING.labels(stage, self._tenant_label)
        waiting.inc()
        try:
            yield
        finally:
            waiting.dec()


def _as_loss(error: AntiphonError, stage: str) -> AntiphonError:
    """Return WorkerLost for Gone: the worker no longer holds what it should, which is no mistake of the client's."""
    if isinstance(error, Gone):
        return WorkerLost(f"The {stage} worker no longer holds this request. Send it again.", retry_after_s=1)
    return error
