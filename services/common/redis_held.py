"""Connections that calls keep.

redis-py takes a connection from its pool for each command and gives it back: that costs 40 µs, more than the command.
"""

from __future__ import annotations

from typing import Any

from hiredis import pack_command
from redis.asyncio import Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError

from services.common.redis_client import RedisClient
from services.common.redis_connection import RenewedConnection

MOST_HELD = 8
"""Calls beyond these take a connection of the pool and give it back: its other users may wait for one."""


class HeldConnections:
    """Connections of the client's pool, taken when a call finds none idle and kept: as many as calls run at a time.

    Each connects anew where the server closed it or is no longer the primary, and tries a call once more then, as the
    client does. Close the client to close them.
    """

    def __init__(self, redis: Redis) -> None:
        self._pool = redis.connection_pool
        self._idle: list[AbstractConnection] = []
        self._held = 0

    async def execute_command(self, *words: Any) -> Any:
        """Return the answer as the server gave it. Raise what redis-py does."""
        connection = self._idle.pop() if self._idle else await self._take()
        try:
            if isinstance(connection, RenewedConnection) and connection.is_outdated:
                await connection.disconnect(nowait=True)
                connection.renew()
            try:
                return await _ask(connection, words)
            except RedisConnectionError:
                return await _ask(connection, words)
        finally:
            if self._held <= MOST_HELD:
                self._idle.append(connection)
            else:
                self._held -= 1
                await self._pool.release(connection)

    async def _take(self) -> AbstractConnection:
        connection = await self._pool.get_connection()
        self._held += 1
        return connection


async def _ask(connection: AbstractConnection, words: tuple[Any, ...]) -> Any:
    """Leave no connection where it fails."""
    command, *others = words
    if not connection.is_connected:
        # To the master that the sentinels know: sending would connect to the last one.
        await connection.connect()
    # In C, where redis-py packs in Python. Commands of two words have a space.
    packed = pack_command((*command.split(), *others))
    if isinstance(connection, RenewedConnection):
        connection.send(packed)
        return await connection.read_answer()
    await connection.send_packed_command(packed)
    return await connection.read_response()


def hold(redis: RedisClient) -> RedisClient | HeldConnections:
    """Return what makes calls without the pool: of a cluster's client itself, which has connections for each node."""
    return redis if isinstance(redis, RedisCluster) else HeldConnections(redis)
