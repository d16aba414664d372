"""What the audit log says of refusals that it did not write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import pytest

from services.common.errors import Unavailable
from services.control.tenancy import audit
from services.control.tenancy.audit import REFUSED_BY_GATEWAY, AuditLog, RefusedKey
from tests.control.conftest import RunningControl, opened


async def test_each_refusal_that_was_not_written_is_told_once(
    control: RunningControl, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several gateways report at once: what comes while a row is written belongs to the next one."""
    monkeypatch.setattr(audit, "MAX_REFUSED_A_MINUTE", 8)
    one = RefusedKey("", "invalid_api_key", 1, datetime(2026, 1, 1, tzinfo=UTC), "", "/v1/models", "")
    async with opened(database_url) as database:
        log = AuditLog(database)
        await asyncio.gather(*[log.refused_by_gateway("gateway", [one]) for _ in range(20)])
        monkeypatch.setattr(audit, "MAX_REFUSED_A_MINUTE", 9)
        await log.refused_by_gateway("gateway", [one])
        rows, _ = await log.list(after=None, limit=100, order="asc", action=REFUSED_BY_GATEWAY, target=None)
    assert len(rows) == 9
    assert sum(row.detail.get("not_written_before", 0) for row in rows) == 12


async def test_refusals_that_could_not_be_written_leave_their_places_to_those_that_come_again(
    control: RunningControl, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway reports again what the database did not take."""
    monkeypatch.setattr(audit, "MAX_REFUSED_A_MINUTE", 4)
    refused = [
        RefusedKey(f"key-{n}", "invalid_api_key", 1, datetime(2026, 1, 1, tzinfo=UTC), "", "/", "") for n in range(4)
    ]
    async with opened(database_url) as database:
        log = AuditLog(database)
        with monkeypatch.context() as away:
            away.setattr(database, "writing", _is_away)
            with pytest.raises(Unavailable):
                await log.refused_by_gateway("gateway", refused)
        await log.refused_by_gateway("gateway", refused)
        rows, _ = await log.list(after=None, limit=100, order="asc", action=REFUSED_BY_GATEWAY, target=None)
    assert sorted(row.detail["prefix"] for row in rows) == [one.prefix for one in refused]


def _is_away() -> None:
    raise Unavailable("The database is away.")
