"""Each operation at one size, and what a death costs the calls that follow it."""

from __future__ import annotations

from typing import Any

from bench.queues.fleet import Fleet, Size, server
from services.common.queues.script import MOST_LOOKS, MOST_TICKETS

TIMES = 300
REAPS = 100


def at_size(kind: str, size: Size) -> dict[str, Any]:
    """Fill a queue. Return the ms of Redis of each operation, then of those that follow deaths."""
    with server(kind) as running, running.client() as redis:
        fleet = Fleet(redis, size)
        fleet.fill()
        return {
            "waiting": size.tickets,
            "one_of_each": size.one_of_each,
            "operations_ms": operations(fleet),
            "deaths": deaths(fleet),
        }


def operations(fleet: Fleet) -> dict[str, dict[str, float]]:
    return {
        "enqueue": fleet.measure(fleet.enqueue, TIMES),
        f"enqueue of {MOST_TICKETS}": fleet.measure(lambda: fleet.enqueue(MOST_TICKETS), TIMES // 4),
        "take": fleet.measure(fleet.take, TIMES // 3),
        f"take of {MOST_TICKETS}": fleet.measure(lambda: fleet.take(MOST_TICKETS), TIMES // 10),
        "settle": fleet.measure(fleet.settle, TIMES),
        "leave": fleet.measure(lambda: fleet.leave(1), TIMES // 3),
        f"leave of {MOST_TICKETS}": fleet.measure(lambda: fleet.leave(MOST_TICKETS), TIMES // 10),
        "heartbeat of a gateway": fleet.measure(fleet.beat, TIMES),
        f"look after {MOST_LOOKS}": fleet.measure(fleet.look, TIMES // 4),
        "stats": fleet.measure(fleet.stats, TIMES),
        f"describe {MOST_TICKETS} queues": fleet.measure(fleet.describe, TIMES // 4),
    }


def deaths(fleet: Fleet) -> dict[str, Any]:
    """A tenth of the gateways and of the workers dies at once, or the only gateway: the calls until all is cleared."""
    size, before = fleet.size, fleet.waiting
    dead = max(1, size.gateways // 10)
    fleet.gateways_die(dead)
    if not size.one_of_each:
        fleet.workers_die(size.workers // 10)
    calls = {
        "enqueue": fleet.measure(fleet.enqueue, 50),
        "take": fleet.measure(fleet.take, 50),
        "stats": fleet.measure(fleet.stats, 50),
    }
    reaps: list[dict[str, float]] = []
    while fleet.dead_gateways:
        reaps.append(fleet.measure(fleet.reap, REAPS))
    if reaps:
        calls["reap"] = {
            "mean_ms": round(sum(row["mean_ms"] for row in reaps) / len(reaps), 4),
            "max_ms": max(row["max_ms"] for row in reaps),
        }
    return {
        "gateways": dead,
        "dropped_and_taken": before - fleet.waiting,
        "calls_of_reap": len(reaps) * REAPS,
        "ms": calls,
    }
