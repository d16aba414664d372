"""One loop for every stage: lease a worker, run, and after a loss lease another and go on.

    acquire ─▶ call ──────────────▶ done
                 │ loss: what is it?
                 ├─ the worker is gone, or moves its turns ─────────────▶ acquire again ─▶ call
                 ├─ what an earlier stage made is gone ─▶ make it again ─▶ acquire again ─▶ call
                 └─ anything else ─▶ the turn fails with it

A run builds its request from the answer so far, so that to begin and to go on are the same call.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from opentelemetry import trace

from services.common.errors import (
    ENGINE_FAILED,
    FEATURES_GONE,
    HIDDEN_STATES_GONE,
    LEASE_GONE,
    MOVED,
    AntiphonError,
    Capacity,
    Fault,
    Gone,
    Unavailable,
    WorkerLost,
)
from services.gateway import metrics
from services.gateway.turn.leases import Attempt, Leases
from services.gateway.turn.losses import Losses

# Seconds before the second and each later lease of a run that got no further; doubled each time.
_PAUSE_S = 0.05
# A worker that fails a call for another reason has begun it, whether it has answered yet or not.
_MAY_PRECEDE_THE_START = ("lost", LEASE_GONE)

R = TypeVar("R")

logger = logging.getLogger(__name__)


class Run(ABC, Generic[R]):
    """One stage's part of a turn. R: what its worker ends with."""

    stage: ClassVar[str]

    @property
    @abstractmethod
    def cost(self) -> float:
        """What the ticket costs at most, in the stage's unit."""

    @property
    def known_cost(self) -> float | None:
        """The part of it that is certain; None = all."""
        return None

    @property
    @abstractmethod
    def progress(self) -> int:
        """How far the stage's part of the answer is; it only grows."""

    @property
    def resumes(self) -> bool:
        """Whether the next call goes on with an answer that has begun."""
        return self.progress > 0

    @abstractmethod
    async def call(self, attempt: Attempt) -> R:
        """Go on with the answer on the attempt's worker, to this stage's end. Raises AntiphonError."""

    async def remake(self, code: str) -> None:
        """Make again what the worker could not pull (an error's code: FEATURES_GONE or HIDDEN_STATES_GONE)."""
        raise NotImplementedError(code)


async def run_stage(run: Run[R], leases: Leases) -> R:
    """Run to the stage's end, on as many workers as it takes.

    Raises the error of a call that another worker could not mend, and what waiting for a lease raises.
    """
    attempt = await leases.acquire(run.stage, run.cost, run.known_cost)
    losses = Losses(leases.engine_failures(run.stage))
    while True:
        progress = run.progress
        try:
            ended = await run.call(attempt)
        except AntiphonError as error:
            cause = _cause(error, resumed=run.resumes)
            if cause is None:
                raise
            losses.lost(progressed=run.progress > progress, moved=cause == MOVED, engine_failed=cause == ENGINE_FAILED)
            if losses.engines.are_fatal:
                raise _fatal(run.stage, attempt, losses.engines.in_all) from None
            if losses.are_too_many:
                raise _as_loss(error, run.stage) from None
            _report(run.stage, cause, attempt)
            pause_s = max(error.retry_after_s or 0.0, 1.0) if cause == "full" else 0.0
        else:
            losses.got_on()
            return ended
        finally:
            leases.ended(attempt)
        await asyncio.sleep(max(pause_s, _PAUSE_S * 2 ** (losses.idle - 1) if losses.idle > 1 else 0.0))
        if cause in (FEATURES_GONE, HIDDEN_STATES_GONE):
            await run.remake(cause)
        attempt = await leases.acquire_again(attempt)


def _cause(error: AntiphonError, *, resumed: bool) -> str | None:
    """Why another worker may mend this: a metric's label; None = none can."""
    if isinstance(error, Gone):
        return error.code if error.code in (FEATURES_GONE, HIDDEN_STATES_GONE, LEASE_GONE) else None
    if isinstance(error, Capacity):  # a client that has half its answer is not told to come again
        return "full" if resumed else None
    if isinstance(error, Unavailable):
        return error.code if error.code in (ENGINE_FAILED, MOVED) else "lost"
    return None


def _report(stage: str, cause: str, attempt: Attempt) -> None:
    trace.get_current_span().add_event("resume", {"antiphon.stage": stage, "antiphon.cause": cause})
    if attempt.began or cause not in _MAY_PRECEDE_THE_START:
        metrics.RESUMES.labels(stage, cause).inc()
        logger.info("%s of %s goes on elsewhere: %s", stage, attempt.grant.worker_id, cause)
    else:
        metrics.STAGE_RETRIES.labels(stage).inc()
        logger.warning("%s on %s did not begin (%s): leasing again", stage, attempt.grant.worker_id, cause)


def _fatal(stage: str, attempt: Attempt, failed_engines: int) -> Fault:
    metrics.FATAL_REQUESTS.labels(stage).inc()
    logger.error(
        "request %s ended %d engines of the %s; it is not tried again",
        attempt.grant.spec.request_id,
        failed_engines,
        stage,
    )
    return Fault(f"The {stage} failed again and again on this request. It is not tried again.", code="fatal_request")


def _as_loss(error: AntiphonError, stage: str) -> AntiphonError:
    """Return WorkerLost for Gone: the worker no longer holds what it should, which is no mistake of the client's."""
    if isinstance(error, Gone):
        return WorkerLost(f"The {stage} worker no longer holds this request. Send it again.", retry_after_s=1)
    return error
