"""TCP connections to checked addresses only: a name is resolved once, and the connection goes to a checked address."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

from services.preprocess.exhaustion import has_file_handle, is_exhaustion
from services.preprocess.fetching.addresses import Address, FetchPolicy


class AddressRefused(Exception):
    """The name leads to an address, or the URL to a port, that is not allowed."""


class UnknownName(Exception):
    """The host's name does not resolve."""


class NoHandleLeft(Exception):
    """The name could not be looked up since this process has no file handle left."""


async def resolve(host: str, port: int) -> list[Address]:
    """Return all addresses of `host`: a name, or an address in any spelling that the system takes. Raise UnknownName
    or NoHandleLeft."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        if is_exhaustion(error) or not has_file_handle():  # the C library does not say why a lookup fails
            raise NoHandleLeft from None
        raise UnknownName from None
    # A scoped IPv6 address ("fe80::1%eth0") loses its scope, and is refused as link-local.
    return list(dict.fromkeys(ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found))


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """The backend that httpcore connects through. TLS still checks the URL's host name, over a checked address."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
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
        errors."""
        if port not in self._policy.ports:
            raise AddressRefused
        addresses = await resolve(host, port)
        if not all(self._policy.allows(address) for address in addresses):
            raise AddressRefused
        failure: Exception = UnknownName()
        for address in addresses:
            try:
                return await self._backend.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
