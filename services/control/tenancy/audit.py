"""The audit log: one row for each administrative act, each refused admin key, and keys that gateways refused. No row
holds a secret."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession

from services.common.errors import AntiphonError
from services.control.store.database import Database
from services.control.store.models import ApiKey, AuditEntry

REFUSED = "admin_key.refused"
REFUSED_BY_GATEWAY = "api_key.refused"
MAX_REFUSED_A_MINUTE = 120
"""Strangers must not fill the disk. What is over is counted in the next row."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, from where, in which request. `id` is a key's; "settings" = the process itself; "" = unknown."""

    id: str
    request_id: str = ""
    remote: str = ""


def utc_now() -> datetime:
    return datetime.now(UTC)


def record(session: AsyncSession, actor: Actor, action: str, target: str, at: datetime, **detail: Any) -> None:
    """Add a row to the transaction of what it tells of: both are kept, or neither."""
    session.add(
        AuditEntry(
            at=at,
            action=action,
            actor=actor.id,
            target=target,
            request_id=actor.request_id,
            remote=actor.remote[:255],
            detail=detail,
        )
    )


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """A key that a gateway refused `count` times for one reason. The rest is of the last request."""

    prefix: str
    code: str
    count: int
    at: datetime
    request_id: str
    path: str
    remote: str


class _Rows:
    """How many rows of one kind may be written in this minute, and how many refusals were not since the last one."""

    def __init__(self) -> None:
        self._began_s = 0.0
        self._taken = 0
        self.not_written = 0

    def take(self, wanted: int) -> int:
        """Return how many may be written now, `wanted` at most, and count them."""
        if time.monotonic() - self._began_s >= 60:
            self._began_s, self._taken = time.monotonic(), 0
        given = min(wanted, max(MAX_REFUSED_A_MINUTE - self._taken, 0))
        self._taken += given
        return given

    @contextmanager
    def writing(self, rows: int) -> Generator[dict[str, Any]]:
        """Yield what the first of `rows` rows, which were taken and are written in the block, says of those that were
        not: no other row does. Where the block fails nothing was written: all of it is as before `take`."""
        told, self.not_written = self.not_written, 0
        try:
            yield {"not_written_before": told} if told else {}
        except BaseException:
            self.not_written += told
            self._taken = max(self._taken - rows, 0)
            raise


class AuditLog:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        # Apart, so that who floods gateways hides nothing of what is tried here.
        self._admin_keys, self._api_keys = _Rows(), _Rows()

    async def refused(self, actor: Actor, prefix: str, reason: str, path: str) -> None:
        """Write that a key was refused. `prefix` is its public part. Where the database is away, the log has it."""
        rows = self._admin_keys
        if not rows.take(1):
            rows.not_written += 1
            return
        detail: dict[str, Any] = {"prefix": prefix, "reason": reason, "path": path[:255]}
        try:
            with rows.writing(1) as before:
                async with self._database.writing() as connection, AsyncSession(connection) as session:
                    record(session, actor, REFUSED, actor.id, self._now(), **detail, **before)
                    await session.flush()
        except AntiphonError:
            logger.warning("an admin key was refused (%s), and the database is away", reason)

    async def refused_by_gateway(self, gateway: str, refused: Sequence[RefusedKey]) -> None:
        """Write a row for each, with the id of a key that is known. Raise Unavailable; nothing is written then."""
        rows = self._api_keys
        given = rows.take(len(refused))
        written, over = refused[:given], refused[given:]
        if written:
            with rows.writing(given) as before:
                await self._write(gateway, written, before)
        rows.not_written += sum(one.count for one in over)

    async def _write(self, gateway: str, written: Sequence[RefusedKey], before: dict[str, Any]) -> None:
        async with self._database.writing() as connection, AsyncSession(connection) as session:
            prefixes = {one.prefix for one in written if one.prefix}
            found = await session.execute(select(ApiKey.prefix, ApiKey.id).where(ApiKey.prefix.in_(prefixes)))
            ids = {row.prefix: row.id for row in found}
            for one in written:
                actor = Actor("", one.request_id, one.remote)
                detail = {"prefix": one.prefix, "reason": one.code, "path": one.path, "count": one.count}
                target = ids.get(one.prefix, "")
                record(session, actor, REFUSED_BY_GATEWAY, target, one.at, **detail, gateway=gateway, **before)
                before = {}
            await session.flush()

    async def list(
        self, *, after: int | None, limit: int, order: Literal["asc", "desc"], action: str | None, target: str | None
    ) -> tuple[Sequence[AuditEntry], bool]:
        """Return rows, and whether there are more behind them."""
        query = select(AuditEntry).order_by(AuditEntry.id if order == "asc" else AuditEntry.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(AuditEntry.id > after if order == "asc" else AuditEntry.id < after)
        if action is not None:
            query = query.where(AuditEntry.action == action)
        if target is not None:
            query = query.where(AuditEntry.target == target)
        async with self._database.read() as session:
            rows = (await session.scalars(query)).all()
        return rows[:limit], len(rows) > limit
