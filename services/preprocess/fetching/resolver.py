"""Looks host names up on threads of its own, a few for each tenant: a slow name server holds only who asked for it.

The C library's lookup cannot be cancelled. A thread stays busy until it ends, also where nobody waits any more.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from concurrent.futures import ThreadPoolExecutor

from services.common.addresses import Address
from services.preprocess.exhaustion import has_file_handle, is_exhaustion

# Lookups under way at a time: of all tenants, and of one.
MOST = 64
MOST_OF_A_TENANT = 4
# What a name server says of a name: there is none such, or none with an address.
_NO_SUCH_NAME = (socket.EAI_NONAME, socket.EAI_NODATA)


class UnknownName(Exception):
    """The host's name does not resolve."""


class NoHandleLeft(Exception):
    """The name could not be looked up since this process has no file handle left."""


class Resolver:
    """One for a process, on one event loop."""

    def __init__(self, most: int = MOST, most_of_a_tenant: int = MOST_OF_A_TENANT) -> None:
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="resolver")
        self._all = asyncio.Semaphore(most)
        self._most_of_a_tenant = most_of_a_tenant
        # Of the tenants that have a lookup under way or waiting: how many may begin, and how many there are.
        self._tenants: dict[str, tuple[asyncio.Semaphore, int]] = {}

    async def resolve(self, tenant: str, host: str, port: int) -> list[Address]:
        """Return all addresses of `host`: a name, or an address in any spelling that the system takes. Raise
        UnknownName or NoHandleLeft."""
        own, waiting = self._tenants.get(tenant) or (asyncio.Semaphore(self._most_of_a_tenant), 0)
        self._tenants[tenant] = own, waiting + 1
        try:
            await own.acquire()
        except BaseException:
            self._leave(tenant)
            raise
        try:
            await self._all.acquire()
        except BaseException:
            own.release()
            self._leave(tenant)
            raise
        looking = asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port)
        looking.add_done_callback(lambda _: self._end(tenant, own))  # not when the caller gives up
        try:
            found = await asyncio.shield(looking)
        except (OSError, UnicodeError) as error:
            if is_exhaustion(error) or not has_file_handle():  # the C library does not say why a lookup fails
                raise NoHandleLeft from None
            raise UnknownName from None
        # A scoped IPv6 address ("fe80::1%eth0") loses its scope, and is refused as link-local.
        return list(dict.fromkeys(ipaddress.ip_address(name.partition("%")[0]) for name in found))

    def close(self) -> None:
        """Begin no lookup any more. Those under way are left to their end."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _end(self, tenant: str, own: asyncio.Semaphore) -> None:
        own.release()
        self._all.release()
        self._leave(tenant)

    def _leave(self, tenant: str) -> None:
        own, waiting = self._tenants.pop(tenant)
        if waiting > 1:
            self._tenants[tenant] = own, waiting - 1


def _look_up(host: str, port: int) -> list[str]:
    """Look up once more what may have failed for the moment. A handle that was missing may be back by now: without one
    the C library leaves out its sources of names, and does not say so."""
    had_file_handle = has_file_handle()
    try:
        return _addresses(host, port)
    except OSError as error:
        is_answer = isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME
        if is_answer and had_file_handle and has_file_handle():
            raise
        return _addresses(host, port)


def _addresses(host: str, port: int) -> list[str]:
    return [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
