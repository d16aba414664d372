"""A stage that shrinks: its pods have their deletion costs before KEDA or an HPA hears of the lower number."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from services.common.queues import QueueName, QueueStats
from services.common.queues.tickets import Lead
from services.common.settings import SettingsError, load_settings
from services.scaler.metadata import Trigger
from services.scaler.policy import Terms
from services.scaler.settings import ScalerSettings
from services.scaler.share import Always, LeaseStore, Share
from services.scaler.watch import Watch
from tests.common.queues.conftest import Cluster, spec
from tests.fixtures.api_server import PodServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.scaler.conftest import environment, running_scaler, scaled_object


@pytest.fixture
def server(tmp_path: Path) -> Generator[PodServer]:
    (tmp_path / "account").mkdir()
    with PodServer(tmp_path / "account", f"speech-{secrets.token_hex(4)}").running() as server:
        yield server


@pytest.fixture
async def cluster(valkey_url: str) -> AsyncGenerator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(valkey_url, stack)


def with_costs(server: PodServer, account: Path | None = None) -> dict[str, object]:
    """Return the settings of a scaler that writes deletion costs to `server`."""
    return {
        "pod_deletion_cost": "true",
        "pod_namespace": server.namespace,
        "kubernetes_api": server.url,
        "service_account": account or server.account,
    }


async def test_costs_are_written_before_the_lower_number_is_told(
    cluster: Cluster, server: PodServer, tmp_path: Path
) -> None:
    queue = QueueName("thinker", server.namespace)
    ref = scaled_object(model=queue.model)
    async with running_scaler(cluster.url, tmp_path, **with_costs(server)) as scaler:
        gateway = await cluster.gateway(f"gateway of {queue.model}")
        pods = {f"worker-{number}": f"pod-{number}" for number in (1, 2)}
        keepers = {
            worker: await cluster.worker(worker, 2, queue=queue, pod=(server.namespace, pod))
            for worker, pod in pods.items()
        }
        calls: list[tuple[str, AsyncExitStack]] = []
        for _ in range(4):
            grant = await gateway.acquire(queue, spec())
            call = await cluster.stack.enter_async_context(AsyncExitStack())
            call.enter_context(keepers[grant.worker_id].open(grant.lease_id))
            calls.append((pods[grant.worker_id], call))

        async def wants_both() -> bool:
            return await scaler.wanted(ref) >= 2

        await wait_until(wants_both)
        (busy, _), *others = calls
        for _, call in others:
            await call.aclose()

        async def wants_one() -> bool:
            return await scaler.wanted(ref) == 1

        await wait_until(wants_one)
        (idle,) = set(pods.values()) - {busy}
        assert server.costs[idle] == "0"
        assert int(server.costs[busy]) >= 100


async def test_a_scaler_that_leaves_has_another_write_at_once(
    cluster: Cluster, server: PodServer, tmp_path: Path
) -> None:
    queue = QueueName("thinker", server.namespace)
    accounts = [tmp_path / name for name in ("one", "other")]
    for account in accounts:
        account.mkdir()
        (account / "token").write_text(account.name)
        (account / "ca.crt").write_bytes((server.account / "ca.crt").read_bytes())
    server.tokens = {account.name for account in accounts}
    await cluster.worker("worker-1", queue=queue, pod=(server.namespace, "pod-1"))
    async with AsyncExitStack() as stack:
        first, _ = [
            await stack.enter_async_context(running_scaler(cluster.url, account, **with_costs(server, account)))
            for account in accounts
        ]
        await wait_until(lambda: server.patches)
        assert {patch.token for patch in server.patches} == {"one"}
        first.process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(first.process.wait(), HANGS_AFTER_S) == 0
        await wait_until(lambda: server.patches[-1].token == "other")


async def test_a_scaler_that_may_not_patch_scales_all_the_same(
    cluster: Cluster, server: PodServer, tmp_path: Path
) -> None:
    server.failing[""] = 403
    queue = QueueName("thinker", server.namespace)
    await cluster.worker("worker-1", queue=queue, pod=(server.namespace, "pod-1"))
    async with running_scaler(cluster.url, tmp_path, **with_costs(server)) as scaler:
        await wait_until(lambda: server.patches)
        ref = scaled_object(model=queue.model)

        async def shrinks_to_zero() -> bool:
            return await scaler.wanted(ref) == 0

        await wait_until(shrinks_to_zero)
        assert len(server.patches) == 1


async def test_a_worker_shows_the_pod_of_its_settings(cluster: Cluster, server: PodServer) -> None:
    gateway = await cluster.gateway(f"gateway of {server.namespace}")
    env = environment(
        redis_url=cluster.url, model=server.namespace, pod_name="pod-1", pod_namespace=server.namespace, drain_s=1
    )
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "tests.scaler.stage", env=env)
    try:

        async def shown() -> bool:
            workers = await gateway.workers(QueueName("thinker", server.namespace))
            return [(one.pod_namespace, one.pod_name) for one in workers] == [(server.namespace, "pod-1")]

        await wait_until(shown)
        process.terminate()
        assert await asyncio.wait_for(process.wait(), HANGS_AFTER_S) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def test_costs_need_a_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://x")
    monkeypatch.setenv("ANTIPHON_POD_DELETION_COST", "true")
    with pytest.raises(SettingsError, match="pod_namespace"):
        load_settings(ScalerSettings)


class Queue:
    """A queue with as many busy slots as a test says, of ten workers with one slot each."""

    def __init__(self, busy: int) -> None:
        self.busy = busy

    async def stats(self, queue: QueueName) -> QueueStats:
        return QueueStats(
            depth=0, oldest_wait_s=0, batch_depth=0, batch_busy=0, yielding=0,
            others_away_s=0, workers=10, slots=10, busy=self.busy, draining_workers=0, draining_slots=0,
            draining_busy=0, arrivals_per_s=0, refusals_per_s=0, grants_per_s=0, hold_s=0, woken=False, known=True,
        )  # fmt: skip

    async def remember(self, queue: QueueName) -> None:
        """Keep nothing."""

    async def lead(self, queue: QueueName, scaler_id: str, ttl_s: float) -> Lead:
        raise NotImplementedError


class Announcements:
    def __init__(self) -> None:
        self.queues: list[QueueName] = []

    async def announce(self, queue: QueueName) -> None:
        self.queues.append(queue)


QUEUE = QueueName("thinker", "tiny")
TERMS = Terms(slots_per_replica=1, max_replicas=10, target_utilization=1.0, scale_down_delay_s=0.0)


def watch(queue: Queue, listener: Announcements | None, share: Share | None = None) -> Watch:
    return Watch(
        Trigger(QUEUE, TERMS), queue, look_s=1.0, idle_look_s=1.0, share=share or Always(), on_scale_down=listener
    )


async def test_a_lower_number_is_announced_once_and_held_back() -> None:
    queue, told = Queue(busy=8), Announcements()
    watched = watch(queue, told)
    before = (await watched.decide()).replicas
    assert not told.queues
    queue.busy = 3
    assert (await watched.decide()).replicas == before
    assert (await watched.decide()).replicas == before
    assert told.queues == [QUEUE]

    async def lower() -> bool:
        return (await watched.decide()).replicas == 3

    await wait_until(lower)
    assert told.queues == [QUEUE]


async def test_a_load_that_comes_back_ends_the_hold() -> None:
    queue, told = Queue(busy=10), Announcements()
    watched = watch(queue, told)
    assert (await watched.decide()).replicas == 10
    queue.busy = 3
    assert (await watched.decide()).replicas == 10
    queue.busy = 10
    assert (await watched.decide()).replicas == 10
    queue.busy = 3
    await watched.decide()
    assert told.queues == [QUEUE] * 2, "a later scale-down is announced anew"


async def test_a_stage_that_goes_to_zero_waits_for_nothing() -> None:
    queue, told = Queue(busy=8), Announcements()
    watched = watch(queue, told)
    await watched.decide()
    queue.busy = 0
    decision = await watched.decide()
    assert (decision.replicas, decision.active) == (0, False)
    assert not told.queues


async def test_a_scaler_whose_number_no_hpa_reads_announces_nothing() -> None:
    class Another:
        """Another scaler shows the number."""

        async def leads(self, queues: LeaseStore, queue: QueueName) -> bool:
            return False

        def has_ended(self) -> bool:
            return True

    queue, told = Queue(busy=8), Announcements()
    watched = watch(queue, told, Another())
    await watched.decide()
    queue.busy = 3
    assert (await watched.decide()).replicas == 3
    assert not told.queues


async def test_without_deletion_costs_nothing_is_held_back() -> None:
    queue = Queue(busy=8)
    watched = watch(queue, None)
    await watched.decide()
    queue.busy = 3
    assert (await watched.decide()).replicas == 3
