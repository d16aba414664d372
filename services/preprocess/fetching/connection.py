"""TCP connections to checked addresses only: a name is resolved once, and the connection goes to a checked address."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextvars import ContextVar
from typing import Any

import httpcore

from services.preprocess.fetching.addresses import FetchPolicy
from services.preprocess.fetching.resolver import Resolver, UnknownName

# What a connection reads at a time: so much and a copy in the HTTP parser lie outside the budget while a fetch waits
# for memory. asyncio would read 256 KiB.
_READ_BYTES = 32 * 1024

# httpcore passes a connection only its host and port.
tenant_of_fetch: ContextVar[str] = ContextVar("tenant_of_fetch", default="")


class AddressRefused(Exception):
    """The name leads to an address, or the URL to a port, that is not allowed."""


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """The backend that httpcore connects through. TLS still checks the URL's host name, over a checked address."""

    def __init__(self, policy: FetchPolicy, resolver: Resolver) -> None:
        self._policy = policy
        self._resolver = resolver
        self._backend: Any = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109  # httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Raise AddressRefused where any address of `host` is not allowed, UnknownName, NoHandleLeft, or httpcore's
        errors. `tenant_of_fetch` says who asks."""
        if port not in self._policy.ports:
            raise AddressRefused
        addresses = await self._resolver.resolve(tenant_of_fetch.get(), host, port)
        if not all(self._policy.allows(address) for address in addresses):
            raise AddressRefused
        failure: Exception = UnknownName()
        for address in addresses:
            try:
                made = await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
            else:
                made._stream._transport.max_size = _READ_BYTES  # asyncio's, inside anyio's: neither has an option
                return made
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
