"""How far CloudEvents were sent. The place is in the database, so that a restart goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import select, update

from services.control.store.database import Database
from services.control.store.models import EventCursor, LedgerState, UsageRow
from services.control.tenancy.audit import utc_now


class SentCursor:
    """One of several replicas sends: the one that holds the lease. `sender` must be new with each start."""

    def __init__(self, database: Database, sender: str, lease_s: float, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._sender = sender
        self._lease = timedelta(seconds=lease_s)
        self._now = now

    async def hold(self) -> bool:
        """Take or renew the lease. Return whether it is this sender's. Raise Unavailable."""
        now = self._now()
        free = (EventCursor.sender == self._sender) | EventCursor.until.is_(None) | (EventCursor.until < now)
        taking = update(EventCursor).where(free).values(sender=self._sender, until=now + self._lease)
        async with self._database.writing() as connection:
            return (await connection.execute(taking)).rowcount == 1

    async def release(self) -> None:
        """Let another replica send at once. Raise Unavailable."""
        mine = EventCursor.sender == self._sender
        async with self._database.writing() as connection:
            await connection.execute(update(EventCursor).where(mine).values(sender="", until=None))

    async def next(self, count: int) -> Sequence[UsageRow]:
        """Return the records after the last that was sent. Raise Unavailable."""
        sent = select(EventCursor.sent_seq).scalar_subquery()
        query = select(UsageRow).where(UsageRow.seq > sent).order_by(UsageRow.seq).limit(count)
        async with self._database.read() as session:
            return (await session.scalars(query)).all()

    async def sent(self, seq: int) -> None:
        """Note that all records up to `seq` were taken. Raise Unavailable."""
        behind = (EventCursor.sender == self._sender) & (EventCursor.sent_seq < seq)
        async with self._database.writing() as connection:
            await connection.execute(update(EventCursor).where(behind).values(sent_seq=seq))

    async def waiting(self) -> int:
        """Return about how many records are still to be sent, exactly where it is 0. Raise Unavailable."""
        both = select(LedgerState.last_seq - EventCursor.sent_seq).where(LedgerState.id == EventCursor.id)
        async with self._database.read() as session:
            return await session.scalar(both) or 0
