"""Simulate one trace under one controller, with a queue of events and no scan over replicas."""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass

import numpy as np

from bench.scaling.controllers import Controller
from bench.scaling.pool import Pool, Replica
from bench.scaling.traces import Trace


@dataclass(frozen=True, slots=True)
class Figures:
    controller: str
    requests: int
    refused: int
    wait_p50_s: float
    wait_p95_s: float
    wait_p99_s: float
    wait_max_s: float
    replica_hours: float
    gpu_hours: float
    gpu_hours_of_1000_answers: float
    most_replicas: int
    scalings: int


def simulate(
    trace: Trace,
    controller: Controller,
    *,
    initial: int,
    slots: int,
    start_s: float,
    gpus: float,
    max_waiting: int,
    deadline_s: float,
) -> Figures:
    """Run the simulation. It begins with `initial` ready replicas, or with the controller's minimum."""
    pool = Pool(slots, max_waiting, deadline_s)
    order = itertools.count()
    # (time, tie-breaker, replica, hold): with hold None the replica becomes ready, else it frees a slot.
    events: list[tuple[float, int, Replica, float | None]] = []

    def push(grants: list[tuple[Replica, float]], at_s: float) -> None:
        for replica, hold_s in grants:
            heapq.heappush(events, (at_s + hold_s, next(order), replica, hold_s))

    for replica in pool.scale(0.0, max(initial, controller.min_replicas), 0.0):
        pool.become_ready(0.0, replica)
    arrivals, holds, arrived = trace.arrivals_s.tolist(), trace.holds_s.tolist(), 0
    next_tick_s = 0.0 if controller.every_s <= trace.length_s else trace.length_s * 2
    while True:
        arrival_s = arrivals[arrived] if arrived < len(arrivals) else trace.length_s * 2
        event_s = events[0][0] if events else trace.length_s * 2
        at_s = min(arrival_s, event_s, next_tick_s)
        if at_s > trace.length_s:
            break
        if at_s == event_s:
            _, _, replica, hold_s = heapq.heappop(events)
            if hold_s is None:
                push(pool.become_ready(at_s, replica), at_s)
            else:
                push(pool.close(at_s, replica, hold_s), at_s)
        elif at_s == arrival_s:
            push(pool.arrive(at_s, holds[arrived]), at_s)
            arrived += 1
        else:
            next_tick_s = at_s + controller.every_s
            wanted = controller.tick(at_s, pool)
            if wanted is not None and wanted != len(pool.replicas):
                for replica in pool.scale(at_s, wanted, start_s):
                    heapq.heappush(events, (replica.ready_s, next(order), replica, None))
    pool.finish(trace.length_s)
    waits = np.array([*pool.waits_s, *(trace.length_s - came_s for came_s, _ in pool.waiting)] or [0.0])
    p50, p95, p99 = (float(np.percentile(waits, q)) for q in (50, 95, 99))
    hours = pool.replica_seconds / 3600
    return Figures(
        controller=controller.name,
        requests=len(arrivals),
        refused=pool.refused,
        wait_p50_s=p50,
        wait_p95_s=p95,
        wait_p99_s=p99,
        wait_max_s=float(waits.max()),
        replica_hours=hours,
        gpu_hours=hours * gpus,
        gpu_hours_of_1000_answers=hours * gpus / max(1, len(arrivals) - pool.refused) * 1000,
        most_replicas=pool.most_replicas,
        scalings=pool.changes,
    )
