"""What runners hold: lines, and the jobs of batches. All that a runner writes is taken only for what it holds.

A runner is held to live for a lease after it was last heard of. Then others take what it held, and the line of a batch
says whose it is: a write for a line that is another's by now changes nothing. So a result is stored once, whoever was
slow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TypeVar

from sqlalchemy import ColumnElement, Select, delete, exists, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from services.control.batches.batches import enter
from services.control.batches.files import Files, new_file
from services.control.batches.statuses import CANCELLING, EXPIRED, FINALIZING, IN_PROGRESS, OPEN, VALIDATING
from services.control.store.batch_models import BatchLine, BatchRow, BatchRunner, FileRow
from services.control.store.database import Database
from services.control.tenancy.audit import utc_now

_FORGET = timedelta(days=1)
_MOST_REMOVED = 100
_OUTPUT = "batch_output"
H = TypeVar("H", BatchLine, BatchRow)


@dataclass(frozen=True, slots=True)
class TakenLine:
    line: BatchLine
    batch: BatchRow


@dataclass(frozen=True, slots=True)
class TakenJob:
    """`files` are those that a finalizing batch is to get: output and errors."""

    batch: BatchRow
    files: tuple[FileRow, FileRow] | None = None


@dataclass(slots=True)
class Taken:
    lines: list[TakenLine] = field(default_factory=list[TakenLine])
    jobs: list[TakenJob] = field(default_factory=list[TakenJob])
    removed_file_ids: Sequence[str] = ()
    waiting_lines: int = 0
    open_batches: int = 0


@dataclass(frozen=True, slots=True)
class ReturnedLine:
    batch_id: str
    number: int
    after_s: float
    has_failed: bool


class Work:
    def __init__(self, database: Database, files: Files, lease_s: float, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._files = files
        self._lease = timedelta(seconds=lease_s)
        self._now = now

    async def take(self, runner: str, max_lines: int, max_jobs: int) -> Taken:
        """Give the runner lines and jobs that nobody holds, of all batches in turn: the one served longest ago first.

        Where there is nothing, nothing is written.
        """
        taken = Taken(removed_file_ids=await self._files.take_over(_MOST_REMOVED))
        async with self._database.read() as session:
            if not await session.scalar(select(exists().where(~BatchRow.is_removed))):
                return taken
        async with self._database.change() as session:
            now = self._now()
            await self._hear(session, runner, now)
            await session.execute(delete(BatchRunner).where(BatchRunner.until < now - _FORGET))
            await self._expire(session, now)
            if max_jobs:
                taken.jobs = await self._take_jobs(session, runner, max_jobs, now)
            if max_lines:
                taken.lines = await self._take_lines(session, runner, max_lines, now)
        async with self._database.read() as session:
            taken.open_batches = (
                await session.scalar(select(func.count(BatchRow.id)).where(BatchRow.status.in_(OPEN))) or 0
            )
            taken.waiting_lines = await session.scalar(_waiting()) or 0
        return taken

    async def keep(
        self, runner: str, lines: Mapping[str, Collection[int]], job_batch_ids: Collection[str]
    ) -> Sequence[str]:
        """Hear of the runner, which knows to hold these lines of batches, and these batches' jobs: it holds nothing
        else from now on. Return those of the lines' batches that take no results any more, or are to end soon."""
        async with self._database.change() as session:
            now = self._now()
            await self._hear(session, runner, now)
            held = select(BatchLine).where(BatchLine.runner == runner, BatchLine.object == "")
            for line in await session.scalars(held.with_for_update()):
                if line.number not in lines.get(line.batch_id, ()):
                    line.runner = ""
            held = select(BatchRow).where(~BatchRow.is_removed, BatchRow.runner == runner)
            for row in await session.scalars(held.with_for_update()):
                if row.id not in job_batch_ids:
                    row.runner = ""
            running = (BatchRow.status == IN_PROGRESS) & (BatchRow.expires_at > now)
            going_on = select(BatchRow.id).where(BatchRow.id.in_(lines), running)
            go_on = set((await session.scalars(going_on)).all())
        return [id for id in lines if id not in go_on]

    async def give_back(self, runner: str, lines: Sequence[ReturnedLine]) -> None:
        """Let others take lines that the runner has no result of."""
        async with self._database.change() as session:
            now = self._now()
            for line in lines:
                await session.execute(
                    update(BatchLine)
                    .where(
                        BatchLine.batch_id == line.batch_id,
                        BatchLine.number == line.number,
                        BatchLine.runner == runner,
                        BatchLine.object == "",
                    )
                    .values(
                        runner="",
                        not_before=now + timedelta(seconds=line.after_s),
                        failures=BatchLine.failures + int(line.has_failed),
                    )
                )

    async def _hear(self, session: AsyncSession, runner: str, now: datetime) -> None:
        until = now + self._lease
        heard = update(BatchRunner).where(BatchRunner.id == runner).values(until=until).returning(BatchRunner.id)
        if (await session.scalars(heard)).first() is None:
            session.add(BatchRunner(id=runner, until=until))
            await session.flush()

    async def _expire(self, session: AsyncSession, now: datetime) -> None:
        """Let batches end whose time is up. No result of theirs is taken from now on."""
        over = (BatchRow.status == IN_PROGRESS) & (BatchRow.expires_at <= now)
        for row in await session.scalars(select(BatchRow).where(over).with_for_update(skip_locked=True)):
            enter(row, FINALIZING, now)
            row.ending = EXPIRED

    async def _take_jobs(self, session: AsyncSession, runner: str, most: int, now: datetime) -> list[TakenJob]:
        held_lines = exists().where(
            BatchLine.batch_id == BatchRow.id, BatchLine.object == "", ~_is_free(BatchLine.runner, now)
        )
        wanted = or_(
            BatchRow.status.in_((VALIDATING, FINALIZING)),
            (BatchRow.status == CANCELLING) & ~held_lines,
            BatchRow.status.not_in(OPEN),
        )
        query = select(BatchRow).where(~BatchRow.is_removed, wanted, _is_free(BatchRow.runner, now))
        rows = await session.scalars(query.order_by(BatchRow.id).limit(most).with_for_update(skip_locked=True))
        jobs: list[TakenJob] = []
        for row in await _still_free(session, rows.all(), now):
            if row.status == CANCELLING:
                enter(row, FINALIZING, now)
            row.runner = runner
            files = None
            if row.status == FINALIZING:
                after_s = row.output_expires_after_s
                files = (
                    new_file(row.tenant, f"{row.id}_output.jsonl", _OUTPUT, now, after_s),
                    new_file(row.tenant, f"{row.id}_error.jsonl", _OUTPUT, now, after_s),
                )
                session.add_all(files)
            jobs.append(TakenJob(row, files))
        return jobs

    async def _take_lines(self, session: AsyncSession, runner: str, most: int, now: datetime) -> list[TakenLine]:
        batches = (
            await session.scalars(
                select(BatchRow).where(BatchRow.status == IN_PROGRESS).order_by(BatchRow.served_at, BatchRow.id)
            )
        ).all()
        taken: list[TakenLine] = []
        left = len(batches)
        for batch in batches:
            share = -(-(most - len(taken)) // left)
            left -= 1
            if share <= 0:
                break
            query = (
                select(BatchLine)
                .where(
                    BatchLine.batch_id == batch.id,
                    BatchLine.object == "",
                    _is_free(BatchLine.runner, now),
                    BatchLine.not_before.is_(None) | (BatchLine.not_before <= now),
                )
                .order_by(BatchLine.number)
                .limit(share)
                .with_for_update(skip_locked=True)
            )
            lines = await _still_free(session, (await session.scalars(query)).all(), now)
            for line in lines:
                line.runner = runner
            taken += [TakenLine(line, batch) for line in lines]
            if lines:
                await session.execute(update(BatchRow).where(BatchRow.id == batch.id).values(served_at=now))
        return taken


def _is_free(runner: InstrumentedAttribute[str], now: datetime) -> ColumnElement[bool]:
    """Return the condition that nobody who lives holds it."""
    live = select(BatchRunner.id).where(BatchRunner.until > now)
    return or_(runner == "", runner.not_in(live))


async def _still_free(session: AsyncSession, rows: Sequence[H], now: datetime) -> list[H]:
    """Return the rows, locked by now, that nobody who lives holds.

    PostgreSQL checks a row again where it changed while the query ran, but reads the runners as they were before: one
    that was first heard meanwhile, and took the row, is none of them. This is a query of its own, which sees it.
    """
    live = set(await session.scalars(select(BatchRunner.id).where(BatchRunner.until > now)))
    return [row for row in rows if row.runner not in live]


def _waiting() -> Select[int]:
    running = select(BatchRow.id).where(BatchRow.status == IN_PROGRESS)
    waits = (BatchLine.object == "") & (BatchLine.runner == "") & BatchLine.batch_id.in_(running)
    return select(func.count()).select_from(BatchLine).where(waits)
