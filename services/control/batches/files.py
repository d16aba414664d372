"""Files: rows for what is in the object store."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, delete, func, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import Conflict, Forbidden, NotFound, TooLarge, Unavailable
from services.control.batches.limits import BatchLimits
from services.control.batches.statuses import OPEN
from services.control.store.batch_models import BatchRow, FileRow
from services.control.store.database import Database
from services.control.tenancy import ids
from services.control.tenancy.audit import utc_now

UPLOADING, READY, GONE = "uploading", "ready", "gone"
REMOVING = "removing"
"""A runner has it to remove, until `expires_at`."""
USER_DATA, VISION = "user_data", "vision"
MEDIA = (USER_DATA, VISION, "assistants_output")
"""The purposes of media that requests name, which may be what an answer said. It has limits of its own: a busy client
leaves room for batches."""
UPLOAD_TIME = timedelta(hours=24)
"""An upload that began so long ago was broken off: no gateway lets one take so long."""
REMOVE_TIME = timedelta(minutes=5)
"""So long one runner alone removes a file. Runners begin no removal after a fifth of it (gateway/batches/runner.py), so
that none is late and removes what came under the same name since."""


class Files:
    def __init__(self, database: Database, limits: BatchLimits, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._limits = limits
        self._now = now

    async def begin(self, tenant: str, filename: str, purpose: str, id: str = "") -> tuple[FileRow, int]:
        """Make the row of a file to come. Return it and the most bytes that it may have. Raise Forbidden, Conflict
        where a file with this id has begun and is not over, and Unavailable while one is removed. "" = it gets a new
        id."""
        async with self._database.write() as write:
            now = self._now()
            if id:
                await _forget(write.session, tenant, id, now)
            left = await self._room(write.session, tenant, purpose, now)
            row = new_file(tenant, filename, purpose, now, id=id)
            write.session.add(row)
        return row, left

    async def complete(
        self, tenant: str, id: str, size_bytes: int, expires_after_s: int = 0, purpose: str = ""
    ) -> FileRow:
        """Note that all bytes are there. `purpose`: "" = that which it began with. Raise NotFound, TooLarge where they
        are more than the tenant's limit, and Forbidden where there are too many files of its purpose."""
        async with self._database.write() as write:
            now = self._now()
            row = await write.session.get(FileRow, id)
            if row is None or row.tenant != tenant or row.state != UPLOADING:
                raise _no_file(id)
            if purpose and purpose != row.purpose:
                await self._room(write.session, tenant, purpose, now, but=id)
                row.purpose = purpose
            _, most_bytes = self._limits.of_files(is_media=row.purpose in MEDIA)
            _, used = await _counted(write.session, tenant, row.purpose, now)
            if used + size_bytes > most_bytes:
                raise too_many_bytes(most_bytes)
            row.state, row.bytes = READY, size_bytes
            row.expires_at = row.created_at + timedelta(seconds=expires_after_s) if expires_after_s else None
        return row

    async def _room(self, session: AsyncSession, tenant: str, purpose: str, now: datetime, *, but: str = "") -> int:
        """Return how many bytes one more file may have. Raise Forbidden where there may be none. `but`: that file does
        not count."""
        most_files, most_bytes = self._limits.of_files(is_media=purpose in MEDIA)
        files, used = await _counted(session, tenant, purpose, now, but=but)
        if files >= most_files:
            raise Forbidden(
                f"There are {files} files already, and at most {most_files} may be. Delete some.",
                code="file_limit_reached",
            )
        return max(0, most_bytes - used)

    async def get(self, tenant: str, id: str) -> FileRow:
        async with self._database.read() as session:
            return await file_of(session, tenant, id, self._now())

    async def list(
        self, tenant: str, after: str, limit: int, *, oldest_first: bool, purpose: str
    ) -> tuple[Sequence[FileRow], bool]:
        """Return a page of the tenant's files, and whether there are more behind them."""
        order = FileRow.id.asc() if oldest_first else FileRow.id.desc()
        query = select(FileRow).where(is_there(tenant, self._now())).order_by(order).limit(limit + 1)
        if after:
            query = query.where(FileRow.id > after if oldest_first else FileRow.id < after)
        if purpose:
            query = query.where(FileRow.purpose == purpose)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit

    async def delete(self, tenant: str, id: str) -> None:
        """Let nobody find the file any more. Its row stays until its bytes are removed. Raise NotFound, or Conflict
        where a batch that is not over reads it."""
        async with self._database.write() as write:
            row = await write.session.get(FileRow, id)
            if row is None or row.tenant != tenant or row.state in (GONE, REMOVING):
                raise _no_file(id)
            reading = select(BatchRow.id).where(BatchRow.input_file_id == id, BatchRow.status.in_(OPEN)).limit(1)
            if batch := await write.session.scalar(reading):
                raise Conflict(f"The batch '{batch}' reads this file. Cancel it first.", code="file_in_use")
            row.state = GONE

    async def take_over(self, limit: int) -> Sequence[str]:
        """Return the ids of files that are gone, expired or were never complete, and that nobody removes yet. Whoever
        asks is to remove their bytes within REMOVE_TIME. Where there are none, nothing is written."""
        now = self._now()
        read = select(BatchRow.input_file_id).where(BatchRow.status.in_(OPEN))
        over = or_(
            FileRow.state == GONE,
            (FileRow.state == UPLOADING) & (FileRow.created_at < now - UPLOAD_TIME),
            (FileRow.state == READY) & (FileRow.expires_at <= now) & FileRow.id.not_in(read),
            (FileRow.state == REMOVING) & (FileRow.expires_at <= now),
        )
        query = select(FileRow).where(over).limit(limit)
        async with self._database.read() as session:
            if await session.scalar(query.limit(1)) is None:
                return ()
        async with self._database.change() as session:
            rows = (await session.scalars(query.with_for_update(skip_locked=True))).all()
            for row in rows:
                row.state, row.expires_at = REMOVING, now + REMOVE_TIME
        return [row.id for row in rows]

    async def removed(self, file_ids: Sequence[str]) -> None:
        """Forget files whose bytes are removed."""
        over = FileRow.id.in_(file_ids) & (FileRow.state == REMOVING)
        async with self._database.writing() as connection:
            await connection.execute(delete(FileRow).where(over))


async def _forget(session: AsyncSession, tenant: str, id: str, now: datetime) -> None:
    """Remove the row that was there under an id that is given again. What comes replaces its bytes. Raise Conflict
    where its file is not over, and Unavailable where a runner removes it: that would remove what comes, too."""
    row = await session.get(FileRow, id, with_for_update=True)
    if row is None:
        return
    if row.tenant == tenant and row.state == REMOVING:
        raise Unavailable(
            "A file that had this name before is being removed. Send it again.",
            code="file_being_removed",
            retry_after_s=1,
        )
    is_over = (
        row.state == GONE
        or (row.state == UPLOADING and row.created_at < now - UPLOAD_TIME)
        or (row.state == READY and row.purpose in MEDIA and row.expires_at is not None and row.expires_at <= now)
    )
    if row.tenant != tenant or not is_over:
        raise Conflict("There is a file with this name already.", code="file_exists")
    await session.delete(row)
    await session.flush()


def new_file(
    tenant: str, filename: str, purpose: str, now: datetime, expires_after_s: int = 0, *, id: str = ""
) -> FileRow:
    return FileRow(
        id=id or ids.new_id(ids.FILE).replace("_", "-", 1),  # as OpenAI's are
        tenant=tenant,
        filename=filename,
        purpose=purpose,
        bytes=0,
        state=UPLOADING,
        created_at=now,
        expires_at=now + timedelta(seconds=expires_after_s) if expires_after_s else None,
    )


def is_there(tenant: str, now: datetime) -> ColumnElement[bool]:
    """Return the condition that the tenant finds a file."""
    lives = FileRow.expires_at.is_(None) | (FileRow.expires_at > now)
    return (FileRow.tenant == tenant) & (FileRow.state == READY) & lives


async def file_of(session: AsyncSession, tenant: str, id: str, now: datetime) -> FileRow:
    """Return a file. Raise NotFound, also for another tenant's."""
    row = await session.scalar(select(FileRow).where(FileRow.id == id, is_there(tenant, now)))
    if row is None:
        raise _no_file(id)
    return row


def too_many_bytes(most: int) -> TooLarge:
    return TooLarge(
        f"All files together would be larger than {most} bytes. Delete some.", param="file", code="file_limit_reached"
    )


async def _counted(
    session: AsyncSession, tenant: str, purpose: str, now: datetime, *, but: str = ""
) -> tuple[int, int]:
    """Return how many files the tenant has or is uploading that share this purpose's limits, and their bytes: media, or
    what is for batches and what they made. `but`: without this one."""
    fresh = (FileRow.state == UPLOADING) & (FileRow.created_at > now - UPLOAD_TIME)
    alike = FileRow.purpose.in_(MEDIA) if purpose in MEDIA else FileRow.purpose.not_in(MEDIA)
    counted = (FileRow.tenant == tenant) & (FileRow.id != but) & alike & ((FileRow.state == READY) | fresh)
    query = select(func.count(), func.coalesce(func.sum(FileRow.bytes), 0)).where(counted)
    files, used = (await session.execute(query)).one()
    return int(files), int(used)


def _no_file(id: str) -> NotFound:
    return NotFound(f"There is no file '{id}'.", param="file_id", code="file_not_found")
