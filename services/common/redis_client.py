"""The one place that makes Redis clients, bounds their calls and translates their errors."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import ClusterDownError, RedisClusterException, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from services.common.errors import Unavailable
from services.common.redis_cluster import connect_cluster
from services.common.redis_url import RedisUrl, parse_redis_url

_log = logging.getLogger(__name__)

ERRORS = Counter(
    "antiphon_redis_errors_total",
    "Calls of the queues' store that failed: it was away (late, or no connection), or refused the command.",
    ("kind",),  # away, refused
)
for _kind in ("away", "refused"):
    ERRORS.labels(_kind)  # shown from the start, so that a rate sees the first one

RedisClient = Redis | RedisCluster

MAX_CONNECTIONS = 64
"""A process's connections; commands beyond wait for one."""

TIMEOUT_S = 2.0
"""A Redis that does not answer for so long is away."""

RETRY_AFTER_S = 2.0
"""What a client is told when Redis is away."""


SENTINEL_TIMEOUT_S = 0.5
"""A sentinel that takes no connection for so long is passed over, so that several fit into TIMEOUT_S."""


class _SentinelPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master that the sentinels name; commands beyond `max_connections` wait for one."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """As the client's end does it: the connections to the sentinels, which redis-py leaves open, end too."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()


def connect(url: str) -> RedisClient:
    """Makes a client for any URL that `parse_redis_url` takes; nothing is sent yet. Use it inside `redis_call`.

    Raises ValueError for a URL that it does not take, or an option in one that redis-py does not.

    One retry, and only for a broken connection: a pooled connection that a restarted server closed is found out with
    the first command. Whatever is sent must therefore be harmless when it arrives twice.

    It has no socket timeout: with one, redis-py (8.1) sends through asyncio.wait_for, which on Python 3.11 swallows a
    cancellation that arrives together with the result.
    """
    parsed = parse_redis_url(url)
    if parsed.kind == "cluster":
        return connect_cluster(parsed, MAX_CONNECTIONS)
    options: dict[str, Any] = {
        "max_connections": MAX_CONNECTIONS,
        "timeout": TIMEOUT_S,
        "socket_timeout": None,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    }
    if parsed.kind == "sentinel":
        return _connect_by_sentinels(parsed, options)
    return Redis.from_pool(BlockingConnectionPool.from_url(url, **options))


def _connect_by_sentinels(url: RedisUrl, options: dict[str, Any]) -> Redis:
    shared: dict[str, Any] = dict(parse_qsl(url.query))
    shared |= {"username": url.username or None, "password": url.password or None}
    if url.tls:
        shared["ssl"] = True
    # No retry: redis-py's own would wait for seconds at a sentinel that is gone, when the next one can answer.
    once = Retry(NoBackoff(), 0)
    asked = shared | {"socket_timeout": None, "socket_connect_timeout": SENTINEL_TIMEOUT_S, "retry": once}
    sentinels = Sentinel(list(url.nodes), sentinel_kwargs=asked)
    pool: Any = _SentinelPool  # its declared parameters are the plain pool's
    return sentinels.master_for(url.master, connection_pool_class=pool, db=url.database, **shared, **options)


@asynccontextmanager
async def redis_call(blocks_s: float = 0.0) -> AsyncGenerator[None]:
    """Bounds what the block asks of Redis, beyond the `blocks_s` that a blocking command waits by itself.

    Raises Unavailable for a late answer and for every error of redis-py, whose ConnectionError and TimeoutError are no
    kin of the builtin ones, as its RedisClusterException is none of RedisError.
    """
    try:
        async with asyncio.timeout(blocks_s + TIMEOUT_S):
            yield
    except (RedisError, RedisClusterException, OSError) as error:
        refused = isinstance(error, ResponseError) and not isinstance(error, ClusterDownError)
        ERRORS.labels("refused" if refused else "away").inc()
        if refused:
            _log.exception("Redis refused a command")
        raise Unavailable("The queue is away. Try again shortly.", retry_after_s=RETRY_AFTER_S) from error
