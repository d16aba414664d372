"""The lease of the scaler that writes deletion costs, on each kind of Redis."""

from __future__ import annotations

from services.common.queues import QueueName
from services.common.queues.cost_writer import CostWriterLease
from tests.common.queues.conftest import QUEUE, Cluster
from tests.fixtures.wait import wait_until

TALKER = QueueName("talker", "org/name")


async def leases(cluster: Cluster, *scalers: str, namespace: str = "speech") -> list[CostWriterLease]:
    return [CostWriterLease(await cluster.redis(), namespace, scaler) for scaler in scalers]


async def test_one_scaler_holds_the_lease_until_it_releases_it(cluster: Cluster) -> None:
    first, second = await leases(cluster, "scaler-1", "scaler-2")
    assert await first.hold(60) == []
    assert await second.hold(60) is None
    assert await first.hold(60) == []
    await second.release()
    assert await second.hold(60) is None
    await first.release()
    assert await second.hold(60) == []
    assert await first.hold(60) is None


async def test_a_silent_scaler_loses_the_lease(cluster: Cluster) -> None:
    first, second = await leases(cluster, "scaler-1", "scaler-2")
    assert await first.hold(0.05) == []

    async def taken() -> bool:
        return await second.hold(60) == []

    await wait_until(taken)
    assert await first.hold(60) is None


async def test_announcements_reach_the_holder_once(cluster: Cluster) -> None:
    holder, other = await leases(cluster, "scaler-1", "scaler-2")
    await holder.hold(60)
    await other.announce(QUEUE)
    await other.announce(QUEUE)
    await holder.announce(TALKER)
    assert await other.hold(60) is None
    announced = await holder.hold(60)
    assert announced is not None
    assert sorted(announced, key=str) == [TALKER, QUEUE]
    assert await holder.hold(60) == []


async def test_each_namespace_has_its_own_lease(cluster: Cluster) -> None:
    (one,) = await leases(cluster, "scaler-1", namespace="one")
    (other,) = await leases(cluster, "scaler-2", namespace="other")
    assert await one.hold(60) == []
    assert await other.hold(60) == []
    await one.announce(QUEUE)
    assert await other.hold(60) == []
    assert await one.hold(60) == [QUEUE]
