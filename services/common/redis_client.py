"""Redis clients: the one place that makes them, bounds their calls and translates their errors."""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl

from prometheus_client import Counter
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import Connection, parse_url
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisClusterException, RedisError, ResponseError

from services.common.errors import Unavailable
from services.common.redis_cluster import connect_cluster
from services.common.redis_connection import (
    RENEWED,
    RenewingPool,
    SentinelConnection,
    SentinelPool,
    SentinelTlsConnection,
    is_stale,
)
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
"""Connections of one process. A command waits for a free one."""

TIMEOUT_S = 2.0
"""A Redis that does not answer within this time counts as away."""

RETRY_AFTER_S = 2.0
"""The Retry-After that clients get while Redis is away."""


_POOL_OPTIONS: dict[str, Any] = {
    "max_connections": MAX_CONNECTIONS,
    "timeout": TIMEOUT_S,
    "socket_timeout": None,
    "socket_connect_timeout": TIMEOUT_S,
    "retry": Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
}

COMPLAIN_EVERY_S = 10.0

SENTINEL_TIMEOUT_S = 0.5
"""A sentinel that accepts no connection within this time is skipped. Several fit into TIMEOUT_S."""


def connect(url: RedisUrl | str) -> RedisClient:
    """Return a client for a URL in a form of `parse_redis_url`. Nothing is sent yet. Use it inside `redis_call`.

    Raise ValueError for any other URL, and for an option that redis-py does not know.

    The client retries once, and only after a broken connection: the first command discovers that a server was restarted
    or demoted. So every command must be harmless when it arrives twice.

    It has no socket timeout: with one, redis-py (8.1) sends through asyncio.wait_for, which on Python 3.11 swallows a
    cancellation that arrives together with the result.
    """
    parsed = parse_redis_url(url) if isinstance(url, str) else url
    try:
        if parsed.kind == "cluster":
            return connect_cluster(parsed, MAX_CONNECTIONS)
        return _connect_by_sentinels(parsed) if parsed.kind == "sentinel" else _connect_to_server(parsed)
    except TypeError as error:  # of redis-py's constructors
        raise ValueError(f"it has an unknown option: {error}") from None


def _connect_to_server(url: RedisUrl) -> Redis:
    options: dict[str, Any] = {**parse_url(url.url), **url.credentials}
    options["connection_class"] = RENEWED[options.get("connection_class", Connection)]
    pool = RenewingPool(**options | _POOL_OPTIONS)
    pool.make_connection()  # unconnected, and dropped: only a connection knows which options there are
    return Redis.from_pool(pool)


def _connect_by_sentinels(url: RedisUrl) -> Redis:
    shared: dict[str, Any] = {**dict(parse_qsl(url.query)), **url.credentials}
    if url.tls:
        shared["ssl"] = True
    # No retry: redis-py's own would wait for seconds at a sentinel that is gone, when the next one can answer.
    once = Retry(NoBackoff(), 0)
    asked = shared | {"socket_timeout": None, "socket_connect_timeout": SENTINEL_TIMEOUT_S, "retry": once}
    sentinels = Sentinel(list(url.nodes), sentinel_kwargs=asked)
    pool: Any = SentinelPool  # its declared parameters are the plain pool's
    return sentinels.master_for(
        url.master,
        connection_pool_class=pool,
        connection_class=SentinelTlsConnection if url.tls else SentinelConnection,
        db=url.database,
        **shared,
        **_POOL_OPTIONS,
    )


def redis_call(blocks_s: float = 0.0) -> AbstractAsyncContextManager[None]:
    """Limit the Redis calls of the block to TIMEOUT_S, plus the `blocks_s` that a blocking command waits by itself.

    Raise Unavailable for a late answer and for every error of redis-py. Its ConnectionError and TimeoutError are not
    the builtin ones, and its RedisClusterException is not a RedisError.
    """
    return _RedisCall(blocks_s + TIMEOUT_S)


class _RedisCall(AbstractAsyncContextManager[None]):
    """Written out, with what asyncio.timeout does: that and a generator would cost as much as the call itself, and each
    call of Redis passes here."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._is_late = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # coroutines run in tasks
        self._task, self._cancels = task, task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._within_s, self._end_late)

    def _end_late(self) -> None:
        self._is_late = True
        self._task.cancel()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # Where another cancelled the task too, it stays cancelled.
        if self._is_late and self._task.uncancel() <= self._cancels and kind is asyncio.CancelledError:
            error = TimeoutError()
        if isinstance(error, RedisError | RedisClusterException | OSError):
            refused = isinstance(error, ResponseError) and not is_stale(error)
            ERRORS.labels("refused" if refused else "away").inc()
            _complaints.log("Redis refused a command" if refused else "Redis is away", error)
            raise Unavailable("The queue is away. Try again shortly.", retry_after_s=RETRY_AFTER_S) from error


class _Complaints:
    """Logs each kind of failure at most once in COMPLAIN_EVERY_S: while Redis is away every call fails."""

    def __init__(self) -> None:
        self._logged_s: dict[str, float] = {}

    def log(self, what: str, error: Exception) -> None:
        now_s = time.monotonic()
        if now_s - self._logged_s.get(what, -COMPLAIN_EVERY_S) >= COMPLAIN_EVERY_S:
            self._logged_s[what] = now_s
            _log.warning("%s: %s", what, str(error) or f"no answer within {TIMEOUT_S:g} s")


_complaints = _Complaints()
