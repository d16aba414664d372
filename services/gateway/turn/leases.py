"""A turn's leases: acquires them, acquires new ones after a loss, gives unused ones back, settles the cost."""

from __future__ import annotations

from collections.abc import Awaitable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, replace

from services.common.queues.tickets import Grant, QueueName, TicketSpec
from services.common.stages import TALKER, THINKER
from services.common.telemetry.tracing import span
from services.gateway import metrics
from services.gateway.turn.losses import EngineFailures
from services.gateway.turn.ports import SlotClient
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.timings import TurnTimes


@dataclass(slots=True)
class Attempt:
    """One try of a run on one worker."""

    grant: Grant
    # Engines of the stage that failed while they worked on the turn, and that it got nothing from since.
    failed_engines: int
    # The worker has answered, so it has opened the lease and frees the slot itself.
    began: bool = False
    # It may have worked although it has not answered: the ticket stays charged.
    spent: bool = False


class Leases:
    """The leases of one turn, over all its stages and attempts."""

    def __init__(self, slots: SlotClient, request: TurnRequest, times: TurnTimes) -> None:
        self._slots = slots
        self._request = request
        self._times = times
        # The last grant of each stage.
        self._last: dict[str, Grant] = {}
        self._engine_failures: dict[str, EngineFailures] = {}
        # Addresses of the workers that may hold something for this turn, by stage.
        self.touched: dict[str, set[str]] = {}
        self.awaited: set[str] = set()
        """Stages that asked for a worker that has not come."""
        # Grants that a worker has opened, by stage. The tenant was charged for each.
        self._opened: dict[str, list[Grant]] = {}
        # The last grant of each stage whose worker may have worked in vain.
        self._in_vain: dict[str, Grant] = {}

    @property
    def attempts(self) -> int:
        """How many workers have worked on the turn, each counted as often as it did."""
        return sum(map(len, self._opened.values()))

    async def wake(self, stages: Iterable[str]) -> None:
        """Tell autoscaling which stages the turn will need, so that they start at the same time."""
        for stage in sorted(stages):
            await self._slots.wake(QueueName(stage, self._request.model.name))

    async def acquire(self, stage: str, cost: float, known: float | None = None) -> Attempt:
        """Wait for a run's first lease. It comes from the front of the ticket's class where the turn had this stage
        before: something that was lost is made again. Raise what `SlotClient.acquire` raises.
        """
        request = self._request
        spec = TicketSpec(
            request_id=request.request_id,
            tenant=request.principal.tenant,
            priority=request.priority,
            cost=cost,
            known=known,
            deadline_unix_ms=request.deadline_unix_ms,
            affinity=request.intent.affinity,
            continues=stage == TALKER and THINKER in self._last,
        )
        if (last := self._last.get(stage)) is not None:
            return await self._attempt(stage, self._slots.reacquire(replace(last, spec=spec)))
        return await self._attempt(stage, self._slots.acquire(QueueName(stage, self._request.model.name), spec))

    async def acquire_again(self, attempt: Attempt) -> Attempt:
        """Wait for a lease on another worker, at the front of the ticket's class. Raise as `acquire`."""
        stage = attempt.grant.queue.stage
        return await self._attempt(stage, self._slots.reacquire(attempt.grant))

    async def _attempt(self, stage: str, granted: Awaitable[Grant]) -> Attempt:
        with span(f"antiphon.gateway.queue.{stage}"), self._waiting(stage):
            self._last[stage] = grant = await granted
        self._times.granted(stage, self._request.principal.label, grant.waited_s)
        return Attempt(grant, self.engine_failures(stage).in_a_row)

    def engine_failures(self, stage: str) -> EngineFailures:
        """Return the stage's count, which all of its runs share."""
        return self._engine_failures.setdefault(stage, EngineFailures())

    def called(self, attempt: Attempt, *, keeps: bool) -> None:
        """Note that the worker is about to be called. `keeps`: it may hold something for this turn from now on."""
        stage = attempt.grant.queue.stage
        if keeps:
            self.touched.setdefault(stage, set()).add(attempt.grant.address)
        self._times.began(stage)

    def began(self, attempt: Attempt) -> None:
        """Note the worker's first answer."""
        if not attempt.began:
            attempt.began = True
            self._opened.setdefault(attempt.grant.queue.stage, []).append(attempt.grant)

    def ended(self, attempt: Attempt) -> None:
        """Give back a lease whose call got no answer. This is harmless while a call still holds the slot."""
        if not attempt.began:
            self._slots.give_back(attempt.grant, spent=attempt.spent)
            if attempt.spent:
                self._in_vain[attempt.grant.queue.stage] = attempt.grant

    async def settle(self, stage: str, cost: float) -> None:
        """Charge the stage's real cost, in its own unit, once for all its attempts.

        Each ticket was charged when it was granted, and refunded if its lease was given back unspent.
        """
        *others, last = self._opened.get(stage) or (None,)
        if last is None:
            return
        if others:  # what is left for the last one is not what an answer costs
            last = replace(last, spec=replace(last.spec, known=None))
        await self._slots.settle(last, cost - sum(grant.spec.cost for grant in others))

    async def charge_in_vain(self, stage: str, cost: float) -> None:
        """Charge what spent attempts cost on top of their tickets, which stay charged."""
        if cost and (grant := self._in_vain.get(stage)) is not None:
            spec = replace(grant.spec, known=None)  # it tells nothing of what is usual
            await self._slots.settle(replace(grant, spec=spec), spec.cost + cost)

    @contextmanager
    def _waiting(self, stage: str) -> Generator[None]:
        waiting, _, _ = metrics.queue_waits(stage, self._request.principal.label)
        waiting.inc()
        self.awaited.add(stage)
        try:
            yield
        finally:
            waiting.dec()
        self.awaited.discard(stage)
