"""Tickets are charged what answers usually come to."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress

from services.common.queues import QueueClient, SlotKeeper, TicketSpec
from services.common.queues.usual_costs import UsualCosts
from tests.common.queues.conftest import QUEUE, Cluster
from tests.fixtures.wait import wait_until

MOST, REAL = 512.0, 10.0


def ticket(cost: float = MOST, known: float | None = 0.0, tenant: str = "t") -> TicketSpec:
    return TicketSpec("r", tenant, cost=cost, known=known)


def test_nothing_is_known_before_the_first_answer() -> None:
    assert UsualCosts().estimate(QUEUE, ticket()) == ticket()


def test_a_ticket_costs_its_prompt_and_a_usual_answer() -> None:
    usual = UsualCosts()
    usual.note(QUEUE, ticket(known=100), 140)
    assert usual.estimate(QUEUE, ticket(known=7)).cost == 47
    for _ in range(200):
        usual.note(QUEUE, ticket(known=100), 120)
    assert 27 <= usual.estimate(QUEUE, ticket(known=7)).cost < 27.01


def test_a_ticket_costs_no_more_than_its_answer_may() -> None:
    usual = UsualCosts()
    usual.note(QUEUE, ticket(), 100)
    short = usual.estimate(QUEUE, ticket(cost=1))
    assert short.cost == 1
    usual.note(QUEUE, short, 1)  # says nothing of answers that may be longer
    assert usual.estimate(QUEUE, ticket()).cost == 100


def test_what_is_certain_is_charged_as_it_is() -> None:
    usual = UsualCosts()
    usual.note(QUEUE, ticket(), 100)
    usual.note(QUEUE, ticket(known=None), 5)
    assert usual.estimate(QUEUE, ticket(known=None)).cost == MOST
    assert usual.estimate(QUEUE, ticket()).cost == 100


async def test_a_tenant_that_comes_to_a_flood_gets_its_share_at_once(cluster: Cluster) -> None:
    """Answers may be fifty times as long as they are."""
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=4)
    grants: Counter[str] = Counter()
    async with asyncio.TaskGroup() as tasks:
        clients = [tasks.create_task(asks_on(gateway, worker, "flood", grants)) for _ in range(12)]
        await wait_until(lambda: grants["flood"] >= 40)
        clients += [tasks.create_task(asks_on(gateway, worker, "late", grants)) for _ in range(12)]
        await wait_until(lambda: grants["late"] > 0)
        before = grants.copy()
        await wait_until(lambda: grants.total() - before.total() >= 120)
        since = grants - before
        for client in clients:
            client.cancel()
    assert abs(since["flood"] - since["late"]) <= 24


async def asks_on(gateway: QueueClient, worker: SlotKeeper, tenant: str, grants: Counter[str]) -> None:
    with suppress(asyncio.CancelledError):
        while True:
            grant = await gateway.acquire(QUEUE, ticket(tenant=tenant))
            with worker.open(grant.lease_id):
                grants[tenant] += 1
                await asyncio.sleep(0.01)  # others come meanwhile
            await gateway.settle(grant, REAL)
