"""Queues over TLS with a user and a password: on one server, behind Sentinel, and on a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

from antiphon.v1 import common_pb2
from services.common.errors import Unavailable
from services.common.queues import QueueClient, QueueName, SlotKeeper, TicketSpec
from services.common.redis_client import connect, redis_call
from tests.common.queues.conftest import running
from tests.fixtures.ports import free_port
from tests.fixtures.redis import RedisServer, find_binary
from tests.fixtures.redis_cluster import ClusterNodes
from tests.fixtures.tls import Certificates, make_certificates
from tests.fixtures.wait import wait_until

USER, PASSWORD = "antiphon", "s3cret"


class TlsServer(RedisServer):
    """A server with one user. It has TLS on `tls_port`, and a plain port for inspection by tests."""

    def __init__(self, binary: str, folder: Path, certificates: Certificates, options: tuple[str, ...] = ()) -> None:
        self.tls_port = free_port()
        super().__init__(binary, folder, [*options, *tls_options(certificates, self.tls_port)])
        self.url = f"redis://{USER}:{PASSWORD}@127.0.0.1:{self.port}/0"


def tls_options(certificates: Certificates, port: int) -> list[str]:
    files = {"ca-cert": certificates.authority, "cert": certificates.certificate, "key": certificates.key}
    options = [word for name, path in files.items() for word in (f"--tls-{name}-file", str(path))]
    users = ["--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all", "--user", "default", "off"]
    return ["--tls-port", str(port), "--tls-auth-clients", "no", *options, *users]


class TlsCluster(ClusterNodes):
    """A cluster that also uses TLS between its nodes."""

    def __init__(self, binary: str, folder: Path, certificates: Certificates) -> None:
        self._certificates = certificates
        super().__init__(binary, folder)

    def _server(self, folder: Path, options: list[str]) -> TlsServer:
        return TlsServer(self._binary, folder, self._certificates, (*options, "--tls-cluster", "yes"))


@contextmanager
def one_server(folder: Path, certificates: Certificates) -> Generator[str]:
    server = TlsServer(find_binary("redis"), folder, certificates)
    server.start()
    try:
        yield f"rediss://{{}}127.0.0.1:{server.tls_port}/0"
    finally:
        server.kill()


@contextmanager
def behind_a_sentinel(folder: Path, certificates: Certificates) -> Generator[str]:
    binary, port = find_binary("redis"), free_port()
    server = TlsServer(binary, folder, certificates)
    config = folder / "sentinel.conf"
    config.write_text(
        f"port 0\nbind 127.0.0.1\ndir {folder}\ntls-replication yes\n"
        f"sentinel monitor queues 127.0.0.1 {server.tls_port} 1\n"
        f"sentinel auth-user queues {USER}\nsentinel auth-pass queues {PASSWORD}\n"
    )
    server.start()
    with ExitStack() as cleanup, (folder / "sentinel.log").open("wb") as log:
        cleanup.callback(server.kill)
        command = [binary, str(config), "--sentinel", *tls_options(certificates, port)]
        sentinel = cleanup.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
        cleanup.callback(sentinel.kill)
        yield f"rediss+sentinel://{{}}127.0.0.1:{port}/queues/0"


@contextmanager
def in_a_cluster(folder: Path, certificates: Certificates) -> Generator[str]:
    nodes = TlsCluster(find_binary("redis"), folder, certificates)
    try:
        nodes.form()
        places = ",".join(f"127.0.0.1:{node.tls_port}" for node in nodes.masters if isinstance(node, TlsServer))
        yield f"rediss+cluster://{{}}{places}"
    finally:
        nodes.kill()


@pytest.mark.parametrize("topology", [one_server, behind_a_sentinel, in_a_cluster])
async def test_tickets_are_granted_over_tls_with_the_password(
    topology: Callable[[Path, Certificates], AbstractContextManager[str]], tmp_path: Path
) -> None:
    certificates = make_certificates(tmp_path)
    with topology(tmp_path, certificates) as place:
        trusted = f"?ssl_ca_certs={certificates.authority}"
        await wait_until(lambda: answers(place.format(f"{USER}:{PASSWORD}@") + trusted))
        assert await is_granted(place.format(f"{USER}:{PASSWORD}@") + trusted)
        assert not await answers(place.format(f"{USER}:{PASSWORD}@"))  # signed by an untrusted authority
        assert not await answers(place.format(f"{USER}:wrong@") + trusted)
        assert not await answers(place.format("") + trusted)


async def answers(url: str) -> bool:
    redis = connect(url)
    try:
        async with redis_call():
            return bool(await redis.get("nothing") is None)
    except Unavailable:
        return False
    finally:
        await redis.aclose()


async def is_granted(url: str) -> bool:
    queue = QueueName("thinker", "tiny")
    card = common_pb2.ModelCard(name="tiny", max_model_len=128)
    gateway_redis, worker_redis = connect(url), connect(url)
    try:
        gateway = QueueClient(gateway_redis, "gateway-1")
        keeper = SlotKeeper(worker_redis, queue, worker_id="worker-1", address="127.0.0.1:1", slots=1, card=card)
        async with running(gateway.run()), running(keeper.run()):
            grant = await gateway.acquire(queue, TicketSpec(request_id="request", tenant="acme"))
            with keeper.open(grant.lease_id):
                return grant.address == "127.0.0.1:1"
    finally:
        await gateway_redis.aclose()
        await worker_redis.aclose()
