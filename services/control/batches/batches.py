"""Batches, as tenants see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import BadInput, Conflict, NotFound, RateLimited
from services.control.batches.files import file_of
from services.control.batches.limits import BatchLimits
from services.control.batches.statuses import CANCELLED, CANCELLING, FINALIZING, IN_PROGRESS, OPEN, VALIDATING
from services.control.store.batch_models import BatchLine, BatchRow
from services.control.store.database import Database
from services.control.tenancy import ids
from services.control.tenancy.audit import utc_now

_RETRY_S = 30.0
_INPUT = "batch"


class Batches:
    def __init__(self, database: Database, limits: BatchLimits, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._limits = limits
        self._now = now

    async def create(
        self,
        tenant: str,
        key_id: str,
        endpoint: str,
        input_file_id: str,
        window_s: int,
        metadata: Mapping[str, str],
        output_expires_after_s: int,
    ) -> BatchRow:
        """Make a batch. Raise NotFound or BadInput for its file, and RateLimited where the tenant has too many."""
        async with self._database.write() as write:
            now = self._now()
            try:
                file = await file_of(write.session, tenant, input_file_id, now)
            except NotFound as error:
                raise NotFound(error.message, param="input_file_id", code=error.code) from None
            if file.purpose != _INPUT:
                raise BadInput(
                    f"Invalid 'input_file_id': the file's purpose is '{file.purpose}'. Upload one for '{_INPUT}'.",
                    param="input_file_id",
                )
            mine = select(func.count()).where(BatchRow.tenant == tenant, BatchRow.status.in_(OPEN))
            if (await write.session.scalar(mine) or 0) >= self._limits.batches:
                raise RateLimited(
                    f"{self._limits.batches} batches are under way, and no more may be. Wait for one, or cancel one.",
                    code="batch_limit_reached",
                    retry_after_s=_RETRY_S,
                )
            row = BatchRow(
                id=ids.new_id(ids.BATCH),
                tenant=tenant,
                key_id=key_id,
                endpoint=endpoint,
                input_file_id=input_file_id,
                window_s=window_s,
                output_expires_after_s=output_expires_after_s,
                status=VALIDATING,
                times={},
                ending="",
                output_file_id="",
                error_file_id="",
                errors=[],
                given_metadata=dict(metadata),
                model="",
                lines_total=0,
                lines_completed=0,
                lines_failed=0,
                created_at=now,
                expires_at=now + timedelta(seconds=window_s),
                runner="",
                served_at=now,
                is_removed=False,
            )
            write.session.add(row)
        return row

    async def get(self, tenant: str, id: str) -> BatchRow:
        async with self._database.read() as session:
            return await _batch_of(session, tenant, id)

    async def list(self, tenant: str, after: str, limit: int, *, oldest_first: bool) -> tuple[Sequence[BatchRow], bool]:
        """Return a page of the tenant's batches, and whether there are more behind them."""
        order = BatchRow.id.asc() if oldest_first else BatchRow.id.desc()
        query = select(BatchRow).where(BatchRow.tenant == tenant).order_by(order).limit(limit + 1)
        if after:
            query = query.where(BatchRow.id > after if oldest_first else BatchRow.id < after)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def cancel(self, tenant: str, id: str) -> BatchRow:
        """Stop the batch. One that is being cancelled stays so. Raise NotFound, or Conflict where it is over."""
        async with self._database.change() as session:
            row = await _batch_of(session, tenant, id, locked=True)
            if row.status in (VALIDATING, IN_PROGRESS):
                if row.status == VALIDATING:
                    await session.execute(delete(BatchLine).where(BatchLine.batch_id == id))
                enter(row, CANCELLING, self._now())
                row.ending = CANCELLED
            elif row.status != CANCELLING and not (row.status == FINALIZING and row.ending == CANCELLED):
                raise Conflict(
                    f"A batch whose status is '{row.status}' cannot be cancelled.", code="batch_not_cancellable"
                )
        return row


def enter(row: BatchRow, status: str, now: datetime) -> None:
    """Change the batch's status. Nobody holds its job then."""
    row.status = status
    row.times = {**row.times, status: int(now.timestamp())}
    row.runner = ""


async def _batch_of(session: AsyncSession, tenant: str, id: str, *, locked: bool = False) -> BatchRow:
    query = select(BatchRow).where(BatchRow.id == id, BatchRow.tenant == tenant)
    row = await session.scalar(query.with_for_update() if locked else query)
    if row is None:
        raise NotFound(f"There is no batch '{id}'.", param="batch_id", code="batch_not_found")
    return row
