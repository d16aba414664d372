"""Connections that notice when their server is no longer the primary, and pools that then replace all of theirs.

A primary that is demoted keeps its connections and refuses what is sent on them. Behind one address (a Kubernetes
Service, a proxy, a DNS name) only a new connection reaches the new primary.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from redis.asyncio.connection import (
    AbstractConnection,
    BlockingConnectionPool,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.asyncio.sentinel import SentinelConnectionPool, SentinelManagedConnection, SentinelManagedSSLConnection
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

SILENT_S = 1.5
"""A connection without an answer for this long is assumed to lead to a dead server. No blocking command waits this
long."""

_STALE_TYPES = (ReadOnlyError, ClusterDownError, MovedError)  # MASTERDOWN is a ClusterDownError
_STALE_CODES = ("UNBLOCKED", "NOREPLICAS")
_STALE_IN_SCRIPT = ("-READONLY", "-LOADING", "-MASTERDOWN", "-NOREPLICAS", "-CLUSTERDOWN")
"""Redis before 7 wraps the error of a script's command in one of its own."""


class StaleServerError(RedisConnectionError):
    """The server at the other end is not the primary, or no longer: another connection may reach the one that is."""


def is_stale(error: ResponseError) -> bool:
    """Return whether the server refused the command because of its own role or state, not because of the command."""
    text = str(error)
    return (
        isinstance(error, _STALE_TYPES)
        or text.startswith(_STALE_CODES)
        or any(code in text for code in _STALE_IN_SCRIPT)
    )


class Generation:
    """A counter shared by the connections of one pool. It goes up when one of them turns out to be stale."""

    def __init__(self) -> None:
        self.number = 0


class RenewedConnection(AbstractConnection):
    """Breaks, as if the server had closed it, when the server says that it is not the primary.

    The client's retry then connects anew. All other connections of the pool are outdated from then on, also those that
    are in use.
    """

    def __init__(self, *, generation: Generation, **options: Any) -> None:
        super().__init__(**options)
        self._shared = generation
        self._generation = generation.number

    @property
    def is_outdated(self) -> bool:
        return self._generation != self._shared.number

    def renew(self) -> None:
        """Mark the connection as current. Called when it is about to be, or has been, opened again."""
        self._generation = self._shared.number

    def send(self, packed: bytes) -> None:
        """Send a command, as `send_packed_command` does, without waiting until it is sent: its answer comes after that.
        The connection must be open."""
        assert self._writer is not None  # noqa: S101  # it is open
        self._writer.write(packed)

    async def read_answer(self) -> Any:
        """Do what `read_response` does, without redis-py's own timeout and steps on the way."""
        began_s = time.monotonic()
        parser: Any = self._parser  # the type of redis-py's base class lacks the method
        try:
            answer = await parser.read_response()
        except BaseException as error:
            await self.disconnect(nowait=True)  # nobody would read the rest
            failed = RedisConnectionError(f"no answer: {error}") if isinstance(error, OSError) else error
            await self._note_failure(failed, began_s)
            raise failed from None
        if isinstance(answer, ResponseError):
            await self._note_failure(answer, began_s)
            raise answer
        return answer

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Return the answer. Raise StaleServerError for an answer that only a server in the wrong role gives."""
        began_s = time.monotonic()
        try:
            return await super().read_response(*args, **options)
        except BaseException as error:
            await self._note_failure(error, began_s)
            raise

    async def _note_failure(self, error: BaseException, began_s: float) -> None:
        """Note what a call's failure says of the server. Raise StaleServerError for such an answer."""
        if isinstance(error, ResponseError):
            if is_stale(error):
                self._outdate_others()
                await self.disconnect(nowait=True)
                raise StaleServerError(str(error)) from error
        elif isinstance(error, RedisConnectionError) or (
            isinstance(error, asyncio.CancelledError) and time.monotonic() - began_s >= SILENT_S
        ):
            self._outdate_others()

    def _outdate_others(self) -> None:
        if not self.is_outdated:  # else another connection of this generation was faster
            self._shared.number += 1
        self.renew()


class PlainConnection(RenewedConnection, Connection):
    pass


class TlsConnection(RenewedConnection, SSLConnection):
    pass


class SocketConnection(RenewedConnection, UnixDomainSocketConnection):
    pass


class SentinelConnection(RenewedConnection, SentinelManagedConnection):
    pass


class SentinelTlsConnection(RenewedConnection, SentinelManagedSSLConnection):
    pass


RENEWED: dict[type[AbstractConnection], type[RenewedConnection]] = {
    Connection: PlainConnection,
    SSLConnection: TlsConnection,
    UnixDomainSocketConnection: SocketConnection,
}
"""redis-py's class → ours in its place."""


class RenewingPool(BlockingConnectionPool):
    """Replaces an outdated connection when it is next taken. Commands beyond `max_connections` wait for one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(generation=Generation(), **options)

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if isinstance(connection, RenewedConnection):
            if connection.is_outdated:
                await connection.disconnect(nowait=True)
            connection.renew()
        await super().ensure_connection(connection)


class SentinelPool(SentinelConnectionPool, RenewingPool):
    """Connections to the master that the sentinels name."""

    async def disconnect(self, inuse_connections: bool = True) -> None:
        """Close the connections, at the client's end also those to the sentinels, which redis-py leaves open."""
        await super().disconnect(inuse_connections)
        if inuse_connections:
            for sentinel in self.sentinel_manager.sentinels:
                await sentinel.aclose()
