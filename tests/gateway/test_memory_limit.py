"""Hostile requests of every kind at once keep a gateway's process within its budget and a fifth."""

from __future__ import annotations

from bench.memory_gateway import MIB, attacks, measured


async def test_hostile_requests_keep_within_the_budget_and_a_fifth() -> None:
    """bench.memory_gateway does it with 1,000 of full size."""
    kinds = attacks(8 * MIB, MIB)
    row = await measured(
        requests=6 * len(kinds), budget_bytes=320 * MIB, max_body_bytes=8 * MIB, max_text_bytes=MIB, settle_s=4.0
    )
    assert row["over_idle_of_budget"] <= 1.2, row
    assert row["answers"]["half a body without a key: 401"] == 6
