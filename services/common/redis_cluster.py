"""A Redis Cluster client with the queues' own limits: bounded waits, and a quick search for a new master."""

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
"""A node that accepts no connection within this time is skipped."""

ANSWER_TIMEOUT_S = 1.5
"""A node that does not answer within this time may have been replaced, so the client asks the cluster for its slots
again. It is less than a caller's own timeout, so that this one ends the call."""


def connect_cluster(url: RedisUrl, max_connections: int) -> RedisCluster:
    """Return a client for a cluster, given any of its nodes. Nothing is sent yet.

    Raise TypeError for an unknown option in the URL.
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
    """The key positions of each command, read once. redis-py reads them whenever the cluster may have changed, which
    blocks the process for 40 ms."""

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
            # redis-py also counts connections that are being closed.
            max_connections=2 * max_connections,
            retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
            socket_timeout=None,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            # The cluster's own cluster-require-full-coverage decides whether slots without a master matter.
            require_full_coverage=False,
            # Update a moved slot alone; read all slots again only when a node fails.
            reinitialize_steps=0,
            # Keep the URL's host names as start nodes: the addresses that nodes report for each other may all change.
            dynamic_startup_nodes=False,
            **options,
        )
        self.commands_parser = _Commands()
        self._connections = asyncio.Semaphore(max_connections)

    async def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """Raise redis-py's TimeoutError where no node answers in time, not counting a blocking command's own wait."""
        blocks_s = float(args[1]) if args[0] == "BLMPOP" else 0.0
        async with self._connections:
            try:
                async with asyncio.timeout(blocks_s + ANSWER_TIMEOUT_S):
                    return await super().execute_command(*args, **kwargs)
            except TimeoutError:
                self._initialize = True
                raise RedisTimeoutError("no node answered in time") from None

    async def _determine_slot(self, command: str, *args: Any) -> int:
        """Return the slot of a command's keys. redis-py would ask a node, in a call of its own, for those of FCALL."""
        if command == "FCALL":  # function, number of keys, first key
            return self.keyslot(args[2])
        return await super()._determine_slot(command, *args)

    async def aclose(self) -> None:
        """Close all connections. redis-py's own method closes none while a reinitialization is pending."""
        self._initialize = False
        await super().aclose()
