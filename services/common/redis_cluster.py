"""A client of a Redis Cluster that waits, gives up and finds the next master as the queues need it."""

from __future__ import annotations

import asyncio
from typing import Any

from redis._parsers import AsyncCommandsParser
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from services.common.redis_url import RedisUrl

CONNECT_TIMEOUT_S = 0.5
"""A node that takes no connection for so long is passed over."""

ANSWER_TIMEOUT_S = 1.5
"""A node that does not answer for so long may have been replaced: the cluster is asked again who holds what. Less than
a caller waits at most, so that it is this that ends the call."""


def connect_cluster(url: RedisUrl, max_connections: int) -> RedisCluster:
    """Makes a client for a cluster from any of its nodes; nothing is sent yet.

    Raises TypeError for an option in the URL that nothing knows.
    """
    options: dict[str, Any] = dict(parse_url(f"{'rediss' if url.tls else 'redis'}://?{url.query}"))
    options.pop("connection_class", None)
    options |= url.credentials
    return _Client(
        startup_nodes=[ClusterNode(host, port) for host, port in url.nodes],
        ssl=url.tls,
        max_connections=max_connections,
        **options,
    )


class _Commands(AsyncCommandsParser):
    """Where the keys of each command stand. Asked for once: redis-py asks whenever the cluster may have changed, and
    takes 40 ms to read the answer, in which the process does nothing else."""

    async def initialize(self, node: ClusterNode | None = None) -> None:
        if node is not None:
            self.node = node
        if not self.commands:
            await super().initialize(node)


class _Client(RedisCluster):
    """Commands beyond `max_connections` wait for one, as they do with a single server; redis-py's would fail at once.

    redis_client says why there is one retry and no socket timeout.
    """

    def __init__(self, *, max_connections: int, **options: Any) -> None:
        super().__init__(
            # One that is being closed still counts there.
            max_connections=2 * max_connections,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            # Whether slots without a master matter is for the cluster's own cluster-require-full-coverage to say.
            require_full_coverage=False,
            # A slot that has moved is noted; all slots are asked for when a node fails.
            reinitialize_steps=0,
            # The URL's names stay the way in: the addresses that the nodes give for each other may all change.
            dynamic_startup_nodes=False,
            **options,
        )
        self.commands_parser = _Commands()
        self._connections = asyncio.Semaphore(max_connections)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Raises redis-py's TimeoutError where no node answers in time, beyond what a blocking command waits."""
        blocks_s = float(args[-1]) if args[0] == "BLPOP" else 0.0
        async with self._connections:
            try:
                async with asyncio.timeout(blocks_s + ANSWER_TIMEOUT_S):
                    return await super().execute_command(*args, **kwargs)
            except TimeoutError:
                self._initialize = True
                raise RedisTimeoutError("no node answered in time") from None

    async def aclose(self) -> None:
        """As redis-py's, which closes nothing where the cluster is to be asked anew."""
        self._initialize = False
        await super().aclose()
