"""Writes usage records into the database, each once, together with the sums of their days."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from services.control.store.database import Database
from services.control.store.models import LedgerState, RejectedRecord, UsageRow, UsageSum
from services.control.tenancy.audit import utc_now
from services.control.usage.records import AMOUNTS, BadRecordError, row_of

SUMMED = ("requests", *AMOUNTS, "derailed_requests", "spoken_again", "cost_micros")
"""The columns of `usage_sums` that are summed."""
_SUM_KEY = ("day", "organisation_id", "project_id", "tenant", "key_id", "model")
_DISCARDED = "discarded"
"""The outcome of a turn that counts as no request: see usage.proto."""
_INSERTS: Mapping[bool, Any] = {True: sqlite.insert, False: postgresql.insert}


@dataclass(frozen=True, slots=True)
class Added:
    """What became of the records of one call."""

    new: int = 0
    duplicates: int = 0
    rejected: int = 0


class UsageLedger:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now
        self._insert = _INSERTS[database.is_sqlite]

    async def add(self, bodies: Sequence[bytes]) -> Added:
        """Add serialized UsageRecords, in one transaction. Of several with one turn_id the first one counts.

        What is no record is set aside in `usage_rejected`. Raise Unavailable; nothing is written then.
        """
        rows: dict[str, dict[str, Any]] = {}
        rejected: list[dict[str, Any]] = []
        for body in bodies:
            try:
                row = row_of(body)
            except BadRecordError as error:
                rejected.append({"at": self._now(), "reason": str(error), "body": body})
            else:
                rows.setdefault(row["turn_id"], row)
        new: list[dict[str, Any]] = []
        async with self._database.writing() as connection:
            if rows:
                new = await self._add_rows(connection, rows)
            if rejected:
                await connection.execute(insert(RejectedRecord), rejected)
        self._database.records_added.set()
        return Added(len(new), len(bodies) - len(rejected) - len(new), len(rejected))

    async def _add_rows(self, connection: AsyncConnection, rows: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
        """Write records and sums. Return the records that are new."""
        state = (
            await connection.execute(select(LedgerState.last_seq, LedgerState.last_ended_at).with_for_update())
        ).one()
        numbered = [{**row, "seq": state.last_seq + number} for number, row in enumerate(rows.values(), 1)]
        adding = self._insert(UsageRow).on_conflict_do_nothing(index_elements=["turn_id"]).returning(UsageRow.turn_id)
        added = set((await connection.execute(adding, numbered)).scalars())
        new = [row for row in numbered if row["turn_id"] in added]
        if new:
            upsert = self._insert(UsageSum)
            summing = upsert.on_conflict_do_update(
                index_elements=_SUM_KEY,
                set_={name: getattr(UsageSum, name) + getattr(upsert.excluded, name) for name in SUMMED},
            )
            await connection.execute(summing, sums_of(new))
            latest = max(row["ended_at"] for row in new)
            if state.last_ended_at is not None:
                latest = max(latest, state.last_ended_at)
            await connection.execute(update(LedgerState).values(last_seq=new[-1]["seq"], last_ended_at=latest))
        return new


def sums_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of `usage_sums` that records sum up to."""
    sums: dict[tuple[Any, ...], Counter[str]] = {}
    for row in rows:
        key = tuple(row["ended_at"].date() if name == "day" else row[name] for name in _SUM_KEY)
        counts = {"requests": row["outcome"] != _DISCARDED, "derailed_requests": row["derailment"] != ""}
        used = {**row, **{name: int(is_one) for name, is_one in counts.items()}}
        sums.setdefault(key, Counter()).update({name: used[name] for name in SUMMED})
    return [
        dict(zip(_SUM_KEY, key, strict=True)) | {name: summed[name] for name in SUMMED} for key, summed in sums.items()
    ]
