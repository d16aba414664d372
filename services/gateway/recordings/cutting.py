"""Cuts a recording: a preprocess worker decodes the file and sends its pieces, which go to the disk.

    file ─▶ cut (preprocess) ─▶ pieces on disk ─▶ one turn after another

It takes seconds an hour of sound, and runs beside the turns of the first pieces. A worker that is lost is replaced: the
next one sends the pieces that are missing, as where they are cut depends on the file alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager

from services.common.errors import INTERNAL, AntiphonError, Fault, TimedOut
from services.common.stages import PREPROCESS
from services.gateway.recordings.pieces import Pieces
from services.gateway.turn.admission import Admission
from services.gateway.turn.held_media import Spill
from services.gateway.turn.intent import Intent, Principal
from services.gateway.turn.leases import Attempt, Leases
from services.gateway.turn.ports import SlotClient, Stages
from services.gateway.turn.request import TurnRequest
from services.gateway.turn.run import Run, run_stage
from services.gateway.turn.timings import TurnTimes
from services.gateway.turn.turns import Turns
from services.gateway.turn.worker_calls import CutCall

logger = logging.getLogger(__name__)


class Recordings:
    """Cuts recordings into pieces of at most `piece_s` seconds."""

    def __init__(
        self, admission: Admission, turns: Turns, slots: SlotClient, stages: Stages, disk: Spill, *, piece_s: float
    ) -> None:
        self._admission = admission
        self._turns = turns
        self._slots = slots
        self._stages = stages
        self._disk = disk
        self._piece_s = piece_s

    @asynccontextmanager
    async def cut(
        self, principal: Principal, intent: Intent, headers: dict[str, str], piece_s: float | None = None
    ) -> AsyncGenerator[Pieces]:
        """Cut the intent's only file, inside the block: the gateway drains no sooner than that ends. `piece_s`: of a
        piece, at most; None = the operator's, which bounds it, too.

        The account of the first piece's turn admits it, so that nobody has recordings cut for nothing. `headers` gets
        that account's HTTP headers, also where it refuses. Raise as
        `Admission.admit` and as `Account.open`; what ends the cutting is raised by `Pieces.get`.
        """
        request = await self._admission.request_of(principal, intent)
        with self._turns.keep_open():
            async with self._turns.opened_account(request, headers) as opened:
                pieces = Pieces(self._disk, opened)
                cutting = asyncio.create_task(
                    self._cut(request, pieces, min(piece_s or self._piece_s, self._piece_s)),
                    name=f"cut {request.request_id}",
                )
                try:
                    yield pieces
                finally:
                    cutting.cancel()
                    await asyncio.gather(cutting, return_exceptions=True)
                    pieces.close()

    async def _cut(self, request: TurnRequest, pieces: Pieces, piece_s: float) -> None:
        leases = Leases(self._slots, request, TurnTimes(request.intent.arrived_s))
        try:
            async with asyncio.timeout(_remaining_s(request)):
                await run_stage(_CutRun(request, self._stages, leases, pieces, piece_s), leases)
        except TimeoutError:
            pieces.end(TimedOut("The deadline passed before the recording was cut. Send less, or allow more time."))
        except AntiphonError as error:
            pieces.end(error)
        except Exception:
            logger.exception("the recording of %s could not be cut", request.request_id)
            pieces.end(Fault(INTERNAL))
        else:
            pieces.end()
            request.intent.inline.leave_memory()


class _CutRun(Run[None]):
    stage = PREPROCESS

    def __init__(self, request: TurnRequest, stages: Stages, leases: Leases, pieces: Pieces, piece_s: float) -> None:
        self._request = request
        self._stages = stages
        self._leases = leases
        self._pieces = pieces
        self._piece_s = piece_s

    @property
    def cost(self) -> float:
        return 1.0 + self._request.intent.inline.total_bytes / 1e6

    @property
    def progress(self) -> int:
        return self._pieces.samples

    async def call(self, attempt: Attempt) -> None:
        self._leases.called(attempt, keeps=False)
        self._pieces.drop_incomplete()
        call = CutCall(attempt.grant, self._request, _remaining_s(self._request), self._piece_s, self.progress)
        async with aclosing(self._stages.preprocess.cut(call)) as coming:
            async for part in coming:
                self._leases.began(attempt)
                await self._pieces.add(part)


def _remaining_s(request: TurnRequest) -> float:
    return max(request.deadline_unix_ms / 1000 - time.time(), 0.0)
