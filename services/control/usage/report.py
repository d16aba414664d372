"""Usage by day, organisation, project, key and model, out of the sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import func, literal, select, tuple_
from sqlalchemy.orm import InstrumentedAttribute

from services.common.usage_sums import Group
from services.control.store.database import Database
from services.control.store.models import UsageSum
from services.control.usage.ledger import SUMMED

_COLUMNS: dict[Group, tuple[InstrumentedAttribute[Any], ...]] = {
    "day": (UsageSum.day,),
    "organisation": (UsageSum.organisation_id,),
    # A tenant of a table has no project's id.
    "project": (UsageSum.project_id, UsageSum.tenant),
    "key": (UsageSum.key_id,),
    "model": (UsageSum.model,),
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which usage: of the days from `first` to before `end`, and of the named subjects; None = all."""

    first: date
    end: date | None = None
    organisation_id: str | None = None
    project_id: str | None = None
    key_id: str | None = None
    model: str | None = None


@dataclass(frozen=True, slots=True)
class UsageTotal:
    """`group`: the values of the columns that it was grouped by; `sums`: those of SUMMED."""

    group: dict[str, Any]
    sums: dict[str, int]

    @property
    def cursor(self) -> list[Any]:
        return list(self.group.values())


class UsageReport:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def totals(
        self, wanted: Wanted, groups: Sequence[Group], after: Sequence[Any] | None, limit: int
    ) -> tuple[list[UsageTotal], bool]:
        """Return sums for each value of the groups, in their order, and whether there are more behind them.

        `after`: the `cursor` of the last one of the page before. Without groups there is one total, or none. Raise
        ValueError for a cursor of other groups.
        """
        columns = [column for group in groups for column in _COLUMNS[group]]
        if after is not None and len(after) != len(columns):
            raise ValueError("the cursor belongs to other groups")
        query = select(*columns, *(func.sum(getattr(UsageSum, name)).label(name) for name in SUMMED))
        query = query.where(UsageSum.day >= wanted.first)
        if wanted.end is not None:
            query = query.where(UsageSum.day < wanted.end)
        for name in ("organisation_id", "project_id", "key_id", "model"):
            if (value := getattr(wanted, name)) is not None:
                query = query.where(getattr(UsageSum, name) == value)
        if columns:
            query = query.group_by(*columns).order_by(*columns).limit(limit + 1)
            if after is not None:
                values = [
                    literal(date.fromisoformat(value) if column is UsageSum.day else str(value), column.type)
                    for column, value in zip(columns, after, strict=True)
                ]
                query = query.where(tuple_(*columns) > tuple_(*values))
        async with self._database.read() as session:
            rows = (await session.execute(query)).all()
        totals = [
            UsageTotal(
                {column.key: value for column, value in zip(columns, row, strict=False)},
                # PostgreSQL's sums of 64-bit numbers are decimals.
                {name: int(value) for name, value in zip(SUMMED, row[len(columns) :], strict=True)},
            )
            for row in rows
            if row[-1] is not None
        ]
        return totals[:limit], len(totals) > limit
