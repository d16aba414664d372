"""Usage records for the tests, and what the database makes of them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select

from antiphon.v1 import usage_pb2
from services.control.store.database import Database
from services.control.store.migrate import migrate
from services.control.store.models import UsageRow, UsageSum
from services.control.usage.ledger import SUMMED
from tests.control.conftest import opened

NOON = datetime(2031, 1, 20, 12, tzinfo=UTC)


def record(turn_id: str, ended_at: datetime = NOON, amounts: dict[str, int] | None = None, **more: Any) -> bytes:
    """Return a serialized record of a turn of one second."""
    ended_unix_ms = round(ended_at.timestamp() * 1000)
    given: dict[str, Any] = {
        "organisation_id": "org_1",
        "project_id": "proj_1",
        "tenant": "acme.prod",
        "key_id": "key_1",
        "model": "omni",
        "kind": "chat",
        "outcome": "ok",
        "attempts": 1,
        "gateway": "gateway-1",
    } | more
    return usage_pb2.UsageRecord(
        turn_id=turn_id,
        began_unix_ms=ended_unix_ms - 1000,
        ended_unix_ms=ended_unix_ms,
        amounts=usage_pb2.Amounts(**(amounts or {"prompt_text_tokens": 10, "completion_text_tokens": 5})),
        **given,
    ).SerializeToString()


@asynccontextmanager
async def migrated(url: str) -> AsyncGenerator[Database]:
    async with opened(url) as database:
        await migrate(database)
        yield database


async def turn_ids(database: Database) -> list[str]:
    """Return the ids of all records, in the order of their commits."""
    async with database.read() as session:
        return list(await session.scalars(select(UsageRow.turn_id).order_by(UsageRow.seq)))


async def sums(database: Database) -> dict[str, int]:
    """Return the sums of all days together."""
    async with database.read() as session:
        rows: Sequence[UsageSum] = (await session.scalars(select(UsageSum))).all()
    return {name: sum(getattr(row, name) for row in rows) for name in SUMMED}
