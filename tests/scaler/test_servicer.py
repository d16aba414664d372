"""KEDA's client against a real scaler process and real queues, on both kinds of server."""

from __future__ import annotations

import asyncio
import json
import signal
import urllib.request
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from externalscaler import externalscaler_pb2
from services.common.queues import QueueClient
from services.common.queues.keys import QUEUES
from services.common.settings import SettingsError, load_settings
from services.scaler.settings import ScalerSettings
from tests.common.queues.bare import BareQueue
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.fixtures.redis import RedisServer
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.scaler.conftest import METADATA, Scaler, running_scaler, scaled_object


@pytest.fixture
async def cluster(redis_url: str) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(redis_url, stack)


@pytest.fixture
async def scaler(redis_url: str, tmp_path: Path) -> AsyncIterator[Scaler]:
    async with running_scaler(redis_url, tmp_path) as running:
        yield running


async def a_worker_was_here(cluster: Cluster, gateway: QueueClient) -> None:
    async with cluster.alone() as own:
        await own.worker()
        await wait_until(partial(is_shown, gateway))


async def is_shown(gateway: QueueClient) -> bool:
    return "tiny" in await gateway.models()


async def is_active(scaler: Scaler, expected: bool, **changes: str) -> bool:
    return await scaler.active(scaled_object(**changes)) is expected


async def wants(scaler: Scaler, replicas: float) -> bool:
    return await scaler.wanted(scaled_object()) == replicas


async def next_of(stream: Any) -> bool:
    answer = await asyncio.wait_for(stream.read(), HANGS_AFTER_S)
    assert answer is not grpc.aio.EOF
    return answer.result


async def test_the_metric_is_the_number_of_replicas_with_target_one(scaler: Scaler) -> None:
    (spec,) = (await scaler.stub.GetMetricSpec(scaled_object())).metricSpecs
    assert (spec.metricName, spec.targetSize, spec.targetSizeFloat) == ("antiphon-thinker", 1, 1.0)


async def test_queues_on_a_redis_cluster_are_read(redis_cluster: ClusterNodes, tmp_path: Path) -> None:
    with redis_cluster.client() as client:
        client.flushall()
    async with AsyncExitStack() as stack, running_scaler(redis_cluster.url, tmp_path) as scaler:
        cluster = Cluster(redis_cluster.url, stack)
        gateway = await cluster.gateway()
        await a_worker_was_here(cluster, gateway)
        await wait_until(lambda: is_active(scaler, False))
        waiting = [asyncio.create_task(gateway.acquire(QUEUE, spec())) for _ in range(5)]
        await wait_until(lambda: wants(scaler, 3))  # five tickets, two slots a replica
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await wait_until(lambda: is_active(scaler, False))


async def test_an_unknown_model_is_started_once(cluster: Cluster, scaler: Scaler) -> None:
    assert await scaler.active(scaled_object())
    assert await scaler.wanted(scaled_object()) == 1
    gateway = await cluster.gateway(cold_start_s=30.0)
    await a_worker_was_here(cluster, gateway)
    await wait_until(partial(is_active, scaler, False))
    assert await scaler.wanted(scaled_object()) == 0


async def test_the_stream_pushes_the_first_ticket_and_the_end(cluster: Cluster, scaler: Scaler) -> None:
    gateway = await cluster.gateway(cold_start_s=30.0)
    await a_worker_was_here(cluster, gateway)
    await wait_until(partial(is_active, scaler, False))
    stream: Any = scaler.stub.StreamIsActive(scaled_object())
    assert await next_of(stream) is False
    waiting = asyncio.create_task(gateway.acquire(QUEUE, spec()))
    assert await next_of(stream) is True
    worker = await cluster.worker("worker-2", slots=2)
    with worker.open((await waiting).lease_id):
        assert await scaler.active(scaled_object())
    assert await next_of(stream) is False
    assert await scaler.wanted(scaled_object()) == 0
    stream.cancel()


async def test_an_announced_turn_wakes_the_stage_before_its_ticket(cluster: Cluster, scaler: Scaler) -> None:
    gateway = await cluster.gateway(cold_start_s=30.0)
    await a_worker_was_here(cluster, gateway)
    await wait_until(partial(is_active, scaler, False))
    await gateway.wake(QUEUE)
    assert await scaler.active(scaled_object())
    assert await scaler.wanted(scaled_object()) == 1


async def test_replicas_follow_the_queue_without_draining_workers(cluster: Cluster, scaler: Scaler) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    grants = [await gateway.acquire(QUEUE, spec()) for _ in range(2)]
    with worker.open(grants[0].lease_id), worker.open(grants[1].lease_id):
        waiting = [asyncio.create_task(gateway.acquire(QUEUE, spec())) for _ in range(9)]
        await wait_until(lambda: depth_is(gateway, 9))
        # 2 busy and 9 waiting slots of unknown hold, 2 slots a replica: 6, of which maxReplicas leaves 4.
        await wait_until(partial(wants, scaler, 4))
        for task in waiting:
            task.cancel()
        await wait_until(lambda: depth_is(gateway, 0))
        worker.drain()
        await wait_until(partial(wants, scaler, 0))
        assert (await gateway.stats(QUEUE)).draining_busy == 2


async def test_observations_are_on_the_metrics_page(cluster: Cluster, scaler: Scaler) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    with worker.open((await gateway.acquire(QUEUE, spec())).lease_id):
        await wait_until(partial(metrics_show, scaler, "slots_busy", 1.0))
        for name, number in (("slots_total", 2.0), ("workers", 1.0), ("queue_depth", 0.0), ("wanted_replicas", 1.0)):
            assert await metrics_show(scaler, name, number), name
        page = await metrics_page(scaler)
        for name in ("queue_head_age_seconds", "arrival_rate", "slots_draining"):
            assert f'antiphon_scaler_{name}{{model="tiny",stage="thinker"}}' in page


async def metrics_page(scaler: Scaler, *, asked: bool = True) -> str:
    if asked:
        await scaler.active(scaled_object())
    url = f"http://127.0.0.1:{scaler.ports['metrics']}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url) as page:
        return page.read().decode()


async def metrics_show(scaler: Scaler, name: str, number: float, model: str = "tiny") -> bool:
    line = f'antiphon_scaler_{name}{{model="{model}",stage="thinker"}} {number}'
    return line in await metrics_page(scaler, asked=model == "tiny")


async def test_wrong_metadata_is_refused_by_every_method(scaler: Scaler) -> None:
    ref = scaled_object(stage="gateway", slotsPerReplica=None)
    request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=ref, metricName="antiphon-thinker")
    for method in ("IsActive", "StreamIsActive", "GetMetricSpec", "GetMetrics"):
        call: Any = getattr(scaler.stub, method)(request if method == "GetMetrics" else ref, timeout=HANGS_AFTER_S)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await (call.read() if method == "StreamIsActive" else call)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT, method
        assert "stage: 'gateway' is not one of preprocess, thinker, talker" in str(refused.value.details())
        assert "slotsPerReplica: is missing" in str(refused.value.details())


async def test_a_metric_of_another_name_is_refused(scaler: Scaler) -> None:
    request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=scaled_object(), metricName="antiphon-talker")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await scaler.stub.GetMetrics(request)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "antiphon-thinker" in str(refused.value.details())


async def test_without_redis_it_reports_unavailable_and_holds_its_state(
    cluster: Cluster, scaler: Scaler, redis_server: RedisServer
) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    stream: Any = scaler.stub.StreamIsActive(scaled_object())
    with worker.open((await gateway.acquire(QUEUE, spec())).lease_id):
        assert await next_of(stream) is True
        await wait_until(partial(wants, scaler, 1))
        redis_server.kill()
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await scaler.wanted(scaled_object())
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        assert await scaler.active(scaled_object())
        with pytest.raises(grpc.aio.AioRpcError) as failed:  # a stage without earlier data
            await scaler.active(scaled_object(name="another", model="another"))
        assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
        redis_server.start()
        await wait_until(partial(answers, scaler))
    assert await next_of(stream) is False  # the same stream throughout
    stream.cancel()


async def answers(scaler: Scaler) -> bool:
    try:
        return await scaler.wanted(scaled_object()) >= 1
    except grpc.aio.AioRpcError:
        return False


async def test_it_remembers_a_stage_at_zero(cluster: Cluster, scaler: Scaler, redis_server: RedisServer) -> None:
    gateway = await cluster.gateway(cold_start_s=30.0)
    await a_worker_was_here(cluster, gateway)
    with redis_server.client() as redis:
        card = BareQueue(redis).key("card")
        redis.pexpire(card, 60_000)
        redis.zadd(QUEUES, {str(QUEUE): 0})
        await scaler.active(scaled_object())
        assert redis.pttl(card) > 3_000_000
    assert (await gateway.models())["tiny"].asleep == {"thinker"}


async def test_each_trigger_of_a_scaled_object_has_its_own_policy(cluster: Cluster, scaler: Scaler) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(slots=2)
    others = [scaled_object(maxReplicas="9"), scaled_object(stage="talker")]
    stream: Any = scaler.stub.StreamIsActive(scaled_object())

    async def wants_in_turn(replicas: float) -> bool:
        for other in others:
            await scaler.wanted(other)
        return await wants(scaler, replicas)

    with worker.open((await gateway.acquire(QUEUE, spec())).lease_id):
        await wait_until(partial(wants_in_turn, 1))
    assert await next_of(stream) is True
    await wait_until(partial(wants_in_turn, 0))  # a policy that restarted would never see a whole delay
    assert await next_of(stream) is False
    stream.cancel()


async def test_a_hung_redis_fails_all_callers_at_once(scaler: Scaler, redis_server: RedisServer) -> None:
    ref = scaled_object()
    await scaler.active(ref)
    request = externalscaler_pb2.GetMetricsRequest(scaledObjectRef=ref, metricName="antiphon-thinker")
    redis_server.pause()
    try:
        calls: list[Any] = [scaler.stub.GetMetrics(request, timeout=60) for _ in range(60)]
        for call in calls:  # if calls queued up, half of them would be too late: each waits two seconds for Redis
            assert await call.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        redis_server.resume()


async def test_without_keda_it_watches_the_configured_stages(redis_url: str, tmp_path: Path) -> None:
    triggers = json.dumps([METADATA, {**METADATA, "stage": "talker"}])
    async with running_scaler(redis_url, tmp_path, triggers=triggers) as scaler:
        await wait_until(partial(shows_both_stages, scaler))


async def test_only_one_of_two_scalers_exports_the_metric(valkey_url: str, tmp_path: Path) -> None:
    settings = {"triggers": json.dumps([{**METADATA, "model": "shared"}]), "takeover_s": 0.2}
    async with AsyncExitStack() as stack:
        scalers: list[Scaler] = []
        for name in ("one", "other"):
            (tmp_path / name).mkdir()
            scalers.append(await stack.enter_async_context(running_scaler(valkey_url, tmp_path / name, **settings)))
        first, second = scalers
        await wait_until(partial(shows_wanted, first, True))
        await wait_until(partial(metrics_show, second, "workers", 0.0, "shared"))
        assert await shows_wanted(second, False)
        first.process.send_signal(signal.SIGSTOP)
        await wait_until(partial(shows_wanted, second, True))
        first.process.send_signal(signal.SIGCONT)
        await wait_until(partial(shows_wanted, first, False))
        assert await shows_wanted(second, True)


async def shows_wanted(scaler: Scaler, expected: bool) -> bool:
    return ("antiphon_scaler_wanted_replicas{" in await metrics_page(scaler, asked=False)) is expected


async def shows_both_stages(scaler: Scaler) -> bool:
    url = f"http://127.0.0.1:{scaler.ports['metrics']}/metrics"
    with await asyncio.to_thread(urllib.request.urlopen, url) as page:
        text = page.read().decode()
    return all(
        f'antiphon_scaler_wanted_replicas{{model="tiny",stage="{stage}"}} 1.0' in text
        for stage in ("thinker", "talker")
    )


def test_a_wrong_trigger_stops_the_start_and_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTIPHON_REDIS_URL", "redis://x")
    monkeypatch.setenv("ANTIPHON_TRIGGERS", json.dumps([{**METADATA, "stage": "gateway"}]))
    with pytest.raises(SettingsError) as refused:
        load_settings(ScalerSettings)
    assert "ANTIPHON_TRIGGERS" in str(refused.value)
    assert "stage: 'gateway' is not one of" in str(refused.value)


async def test_sigterm_ends_open_streams_cleanly_and_shows_in_health(redis_url: str, tmp_path: Path) -> None:
    async with running_scaler(redis_url, tmp_path) as scaler:
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{scaler.ports['grpc']}")
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", "externalscaler.ExternalScaler"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        await channel.close()
        stream: Any = scaler.stub.StreamIsActive(scaled_object())
        assert await next_of(stream) is True
        scaler.process.terminate()
        assert await asyncio.wait_for(stream.read(), HANGS_AFTER_S) is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
