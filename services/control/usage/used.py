"""What subjects used in the current day and month: the counts of their quotas."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from operator import add
from typing import Any

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import InstrumentedAttribute

from services.common.errors import BadInput
from services.common.usage_sums import TOKENS
from services.control.store.database import Database
from services.control.store.models import LedgerState, UsageSum
from services.control.tenancy import ids
from services.control.tenancy.audit import utc_now

MAX_SUBJECTS = 1000
_COLUMNS: dict[str, InstrumentedAttribute[str]] = {
    ids.API_KEY: UsageSum.key_id,
    ids.PROJECT: UsageSum.project_id,
    ids.ORGANISATION: UsageSum.organisation_id,
}


@dataclass(frozen=True, slots=True)
class Used:
    requests: int = 0
    tokens: int = 0
    audio_ms: int = 0
    money_micros: int = 0


@dataclass(frozen=True, slots=True)
class SubjectUsed:
    """`as_of`: the latest end of a turn that the database knows; None = it has no records."""

    subject: str
    day: Used
    month: Used
    as_of: datetime | None


class UsedSums:
    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._database = database
        self._now = now

    async def of(self, subjects: Sequence[str]) -> list[SubjectUsed]:
        """Return each subject's sums of the current day and month of UTC, zeros where it used nothing.

        Raise BadInput for what is no id of a key, project or organisation; Unavailable.
        """
        if len(subjects) > MAX_SUBJECTS:
            raise BadInput(f"There are more than {MAX_SUBJECTS} subjects. Ask several times.", param="subjects")
        asked: dict[str, list[str]] = {kind: [] for kind in _COLUMNS}
        for subject in dict.fromkeys(subjects):
            kind = subject.partition("_")[0]
            if kind not in asked:
                raise BadInput(f"'{subject[:40]}' is no id of a key, project or organisation.", param="subjects")
            asked[kind].append(subject)
        today = self._now().astimezone(UTC).date()
        found: dict[str, tuple[Used, Used]] = {}
        async with self._database.read() as session:
            as_of = await session.scalar(select(LedgerState.last_ended_at))
            for kind, wanted in asked.items():
                if wanted:
                    found |= await _read(session, _COLUMNS[kind], wanted, today)
        nothing = (Used(), Used())
        return [SubjectUsed(subject, *found.get(subject, nothing), as_of) for subject in dict.fromkeys(subjects)]


async def _read(
    session: AsyncSession, column: InstrumentedAttribute[str], subjects: Sequence[str], today: date
) -> dict[str, tuple[Used, Used]]:
    first = today.replace(day=1)
    following = (first + timedelta(days=32)).replace(day=1)
    tokens: ColumnElement[int] = reduce(add, (getattr(UsageSum, name) for name in TOKENS))
    measures = (UsageSum.requests, tokens, UsageSum.audio_in_ms + UsageSum.audio_out_ms, UsageSum.cost_micros)
    is_today = UsageSum.day == today
    sums: list[Any] = [func.sum(case((is_today, measure), else_=0)) for measure in measures]
    sums += [func.sum(measure) for measure in measures]
    rows = await session.execute(
        select(column, *sums)
        .where(column.in_(subjects), UsageSum.day >= first, UsageSum.day < following)
        .group_by(column)
    )
    # PostgreSQL's sums of 64-bit numbers are decimals.
    return {row[0]: (Used(*map(int, row[1:5])), Used(*map(int, row[5:9]))) for row in rows}
