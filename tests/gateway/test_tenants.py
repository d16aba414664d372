"""Metrics of each tenant: turns, waiting and refused requests. Tokens are in tests/e2e/test_tenants.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
import pytest_asyncio

from services.common.queues import QueueName
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import THINKING, RunningGateway, absent_workers, all_slots_taken, running_gateway
from tests.gateway.http_server import CHAT, HELLO
from tests.gateway.samples import sample
from tests.gateway.test_auth import sha256

pytestmark = pytest.mark.asyncio(loop_scope="module")
KEYS = {name: f"key-of-{name}" for name in ("acme", "beta", "initech")}
QUEUE = QueueName("preprocess", THINKING.name)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def gateway(store: RedisServer) -> AsyncIterator[RunningGateway]:
    """Run a gateway that shows two of its three tenants, with one waiting request for each."""
    keys = {name: [sha256(key)] for name, key in KEYS.items()}
    async with (
        absent_workers(store.url, THINKING),
        running_gateway(
            store.url, api_key="", tenant_keys=keys, metrics_tenants=2, max_waiting_per_tenant=1
        ) as running,
    ):
        yield running


async def ask(gateway: RunningGateway, tenant: str) -> httpx.Response:
    return await gateway.client.post(
        CHAT,
        json={"model": THINKING.name, "messages": HELLO},
        headers={"authorization": f"Bearer {KEYS[tenant]}"},
    )


def turns(outcome: str, tenant: str) -> float:
    return sample("antiphon_gateway_turns_total", outcome=outcome, speech="false", tenant=tenant)


def waiting(tenant: str) -> float:
    return sample("antiphon_gateway_waiting_tickets", stage="preprocess", tenant=tenant)


async def test_a_turn_is_counted_for_its_tenant_or_for_other(
    gateway: RunningGateway,
) -> None:
    labels = {"acme": "acme", "beta": "beta", "initech": "other"}
    for tenant, label in labels.items():
        before = {name: turns("worker_lost", name) for name in labels.values()}
        waits = sample("antiphon_gateway_tenant_queue_wait_seconds_count", tenant=label)
        assert (await ask(gateway, tenant)).status_code == 503  # nothing listens at the workers' address
        assert turns("worker_lost", label) == before[label] + 1
        assert sum(turns("worker_lost", name) for name in labels.values()) == sum(before.values()) + 1
        assert sample("antiphon_gateway_tenant_queue_wait_seconds_count", tenant=label) > waits
        assert sample("antiphon_gateway_live_turns", tenant=label) == 0


async def test_metrics_show_waiting_and_refused_requests(gateway: RunningGateway, store: RedisServer) -> None:
    refused = {name: turns("queue_full", name) for name in ("acme", "beta")}
    async with all_slots_taken(store.url, QUEUE):
        first = [asyncio.create_task(ask(gateway, tenant)) for tenant in ("acme", "beta")]
        await wait_until(lambda: waiting("acme") == waiting("beta") == 1)
        assert sample("antiphon_gateway_live_turns", tenant="acme") == 1
        answer = await ask(gateway, "acme")
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "tenant_queue_full")
        assert turns("queue_full", "acme") == refused["acme"] + 1
        assert turns("queue_full", "beta") == refused["beta"]
        assert waiting("acme") == waiting("beta") == 1
    for answer in await asyncio.gather(*first):
        assert answer.status_code == 503
    assert waiting("acme") == waiting("beta") == 0


async def test_a_client_that_leaves_stops_waiting(gateway: RunningGateway, store: RedisServer) -> None:
    async with all_slots_taken(store.url, QUEUE):
        leaves = asyncio.create_task(ask(gateway, "initech"))
        await wait_until(lambda: waiting("other") == 1)
        leaves.cancel()
        await wait_until(lambda: waiting("other") == 0)
        await wait_until(lambda: sample("antiphon_gateway_live_turns", tenant="other") == 0)


async def test_metrics_show_neither_keys_nor_other_tenants(gateway: RunningGateway) -> None:
    await ask(gateway, "initech")
    page = await gateway.scrape()
    assert 'tenant="acme"' in page
    assert "initech" not in page
    for key in KEYS.values():
        assert key not in page
        assert sha256(key) not in page
