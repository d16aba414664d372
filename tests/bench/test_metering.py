"""Real losses of the control plane, Redis and a gateway: each turn has one record, of what its client received."""

from __future__ import annotations

from bench.metering.compare import figures, problems
from bench.metering.run import Options, run

TURNS = 60


async def test_records_equal_what_clients_received_whatever_dies() -> None:
    said: list[str] = []
    options = Options(turns=TURNS, at_once=8, database="sqlite", seed=3, gateways_lost=1, hurries=True)
    result = await run(options, said.append)
    assert problems(result) == [], said
    told = figures(result)
    assert told["losses"] == ["control", "redis", "gateway-1"]
    assert len(result.received) >= TURNS
    assert {"ok", "limit", "cancelled", "scripted"} <= set(told["outcomes"])
    assert set(told["ways"]) == {"stream", "whole", "converse", "speech", "realtime"}
