"""What runners write: the lines of an input, the lines' results, and how a batch ends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import Gone
from services.control.batches.batches import enter
from services.control.batches.files import GONE, READY
from services.control.batches.statuses import CANCELLING, COMPLETED, FAILED, FINALIZING, IN_PROGRESS, OPEN, VALIDATING
from services.control.store.batch_models import BatchLine, BatchRow, FileRow
from services.control.store.database import Database
from services.control.tenancy.audit import utc_now

LINES_A_MESSAGE = 1000


@dataclass(frozen=True, slots=True)
class Result:
    """The result of line `number`: where in the object it is, and whether it belongs into the error file."""

    number: int
    offset: int
    bytes: int
    is_error: bool


class Results:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def add_lines(self, runner: str, batch_id: str, first_number: int, places: Sequence[tuple[int, int]]) -> None:
        """Add lines, each with its offset and bytes in the input. Raise Gone where the runner does not validate it."""
        rows: list[dict[str, Any]] = [
            {
                "batch_id": batch_id,
                "number": number,
                "offset": offset,
                "bytes": size,
                "runner": "",
                "failures": 0,
                "object": "",
                "result_offset": 0,
                "result_bytes": 0,
                "is_error": False,
            }
            for number, (offset, size) in enumerate(places, first_number)
        ]
        async with self._database.change() as session:
            await _held(session, runner, batch_id, VALIDATING)
            if first_number == 1:  # whoever began before left some
                await session.execute(delete(BatchLine).where(BatchLine.batch_id == batch_id))
            if rows:
                await session.execute(insert(BatchLine), rows)

    async def end_validation(
        self, runner: str, batch_id: str, errors: Sequence[dict[str, Any]], lines: int, model: str
    ) -> None:
        """Let the batch begin, or fail where there are errors. Raise Gone where the runner does not validate it."""
        async with self._database.change() as session:
            row = await _held(session, runner, batch_id, VALIDATING)
            row.model, now = model, self._now()
            if errors:
                row.errors = list(errors)
                await session.execute(delete(BatchLine).where(BatchLine.batch_id == batch_id))
                enter(row, FAILED, now)
            else:
                row.lines_total = lines
                enter(row, IN_PROGRESS, now)

    async def store(self, runner: str, batch_id: str, object_name: str, results: Sequence[Result]) -> int:
        """Take the results of lines that the runner holds, each once. Return how many those are."""
        taken = 0
        async with self._database.change() as session:
            row = await session.scalar(select(BatchRow).where(BatchRow.id == batch_id).with_for_update())
            if row is None or row.status not in (IN_PROGRESS, CANCELLING):
                return 0
            for result in results:
                changed = await session.scalar(
                    update(BatchLine)
                    .where(
                        BatchLine.batch_id == batch_id,
                        BatchLine.number == result.number,
                        BatchLine.runner == runner,
                        BatchLine.object == "",
                    )
                    .values(
                        object=object_name,
                        result_offset=result.offset,
                        result_bytes=result.bytes,
                        is_error=result.is_error,
                    )
                    .returning(BatchLine.number)
                )
                if changed is not None:
                    taken += 1
                    row.lines_failed += result.is_error
                    row.lines_completed += not result.is_error
            if row.status == IN_PROGRESS and row.lines_completed + row.lines_failed == row.lines_total:
                enter(row, FINALIZING, self._now())
                row.ending = COMPLETED
        return taken

    async def lines(self, runner: str, batch_id: str) -> AsyncIterator[Sequence[BatchLine]]:
        """Yield the batch's lines: those with a result in the order of the objects, then the others. Raise Gone."""
        async with self._database.change() as session:
            await _held(session, runner, batch_id, FINALIZING)
        # They change no more: a batch that is finalizing takes no results.
        for has_result in (True, False):
            after: tuple[str, int, int] = ("", -1, -1)
            while True:
                page = await self._page(batch_id, after, has_result=has_result)
                if not page:
                    break
                yield page
                last = page[-1]
                after = (last.object, last.result_offset, last.number)

    async def _page(self, batch_id: str, after: tuple[str, int, int], *, has_result: bool) -> Sequence[BatchLine]:
        name, offset, number = after
        if has_result:
            behind = (BatchLine.object > name) | ((BatchLine.object == name) & (BatchLine.result_offset > offset))
            query = select(BatchLine).where(BatchLine.object != "", behind)
            query = query.order_by(BatchLine.object, BatchLine.result_offset)
        else:
            query = select(BatchLine).where(BatchLine.object == "", BatchLine.number > number)
            query = query.order_by(BatchLine.number)
        async with self._database.read() as session:
            query = query.where(BatchLine.batch_id == batch_id).limit(LINES_A_MESSAGE)
            return (await session.scalars(query)).all()

    async def end(
        self, runner: str, batch_id: str, output_file_id: str, error_file_id: str, output_bytes: int, error_bytes: int
    ) -> None:
        """Let the batch end, with its files. One of 0 bytes is none. Raise Gone where the runner lost the job."""
        async with self._database.change() as session:
            row = await _held(session, runner, batch_id, FINALIZING)
            for file_id, size in ((output_file_id, output_bytes), (error_file_id, error_bytes)):
                file = await session.get(FileRow, file_id)
                if file is not None:
                    file.state, file.bytes = (READY, size) if size else (GONE, 0)
            row.output_file_id = output_file_id if output_bytes else ""
            row.error_file_id = error_file_id if error_bytes else ""
            row.lines_failed = row.lines_total - row.lines_completed  # those that never ran too
            enter(row, row.ending, self._now())

    async def removed(self, runner: str, batch_id: str) -> None:
        """Forget the lines of a batch that is over: the object store has its files alone."""
        async with self._database.change() as session:
            row = await session.scalar(select(BatchRow).where(BatchRow.id == batch_id).with_for_update())
            if row is not None and row.runner == runner and row.status not in OPEN:
                await session.execute(delete(BatchLine).where(BatchLine.batch_id == batch_id))
                row.is_removed, row.runner = True, ""


async def _held(session: AsyncSession, runner: str, batch_id: str, status: str) -> BatchRow:
    """Return a batch in this status if the runner holds its job, locked. Raise Gone."""
    row = await session.scalar(select(BatchRow).where(BatchRow.id == batch_id).with_for_update())
    if row is None or row.runner != runner or row.status != status:
        raise Gone(f"The batch '{batch_id}' is not this runner's to work on any more.", code="batch_gone")
    return row
