"""Media from http(s) URLs, fetched by this service alone and never from inside the network that it runs in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import httpcore
import httpx

from services.common.errors import BadInput, TooLarge
from services.preprocess.exhaustion import is_exhaustion, unavailable
from services.preprocess.fetching.addresses import FetchPolicy
from services.preprocess.fetching.connection import AddressRefused, GuardedBackend, tenant_of_fetch
from services.preprocess.fetching.resolver import NoHandleLeft, Resolver, UnknownName

logger = logging.getLogger(__name__)

MAX_URL_CHARACTERS = 8192
# Some wait for memory that requests give back whose own fetches are still to come: these must find a connection.
MAX_CONNECTIONS = 640
REDIRECTS = frozenset({301, 302, 303, 307, 308})
SCHEME_PORTS = {"http": 80, "https": 443}
USER_AGENT = b"antiphon-preprocess"


Reserve = Callable[[int], Awaitable[None]]
"""Waits for memory for so many bytes more."""


async def _reserve_nothing(size: int) -> None:
    pass


class Fetcher:
    """GETs media under a policy. One for a process, closed by its block."""

    def __init__(self, policy: FetchPolicy) -> None:
        self._policy = policy
        self._resolver = Resolver()
        self._pool = httpcore.AsyncConnectionPool(
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=0,  # each fetch resolves and checks anew
            network_backend=GuardedBackend(policy, self._resolver),
        )

    async def __aenter__(self) -> Self:
        await self._pool.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._pool.__aexit__(kind, error, trace)
        self._resolver.close()

    async def fetch(
        self, url: str, max_bytes: int, param: str, tenant: str = "", reserve: Reserve = _reserve_nothing
    ) -> bytearray:
        """Return the body behind `url`, following redirects. Raise BadInput or TooLarge naming `param`, Unavailable.

        `reserve` is awaited before more bytes are read. The time that it takes does not count as the URL's.
        """
        target = self._parse(url, param)
        tenant_of_fetch.set(tenant)
        try:
            async with asyncio.timeout(self._policy.total_s) as limit:
                patiently = _outside(limit, reserve)
                for _ in range(self._policy.redirects + 1):
                    found = await self._get(target, max_bytes, param, patiently)
                    if isinstance(found, bytearray):
                        return found
                    target = self._parse(str(target.join(found)), param)
        except TimeoutError:
            raise _failed(f"The URL took longer than {self._policy.total_s:g} s to fetch.", param) from None
        except AddressRefused:
            raise BadInput(
                "The URL leads to an address or port that media is not fetched from. Send a public URL, or the media "
                "itself in base64. An operator allows more with preprocess' settings fetch_networks and fetch_ports.",
                code="url_refused",
                param=param,
            ) from None
        except UnknownName:
            raise _failed("The URL's host is not known.", param) from None
        except (NoHandleLeft, OSError, httpcore.NetworkError, httpcore.TimeoutException) as error:
            if isinstance(error, NoHandleLeft) or is_exhaustion(error):
                logger.warning("cannot fetch: this process has run out of file handles or memory")
                raise unavailable() from None
            if isinstance(error, OSError):
                raise
            raise _failed("The URL could not be fetched.", param) from None
        except (httpcore.ProtocolError, httpx.InvalidURL):
            raise _failed("The URL could not be fetched.", param) from None
        raise _failed(f"The URL redirects more than {self._policy.redirects} times.", param)

    def _parse(self, url: str, param: str) -> httpx.URL:
        """Parse once; the same result is checked, connected to and sent."""
        if len(url) > MAX_URL_CHARACTERS:
            raise BadInput(f"The URL is longer than {MAX_URL_CHARACTERS} characters.", code="invalid_url", param=param)
        try:
            target = httpx.URL(url)
        except (httpx.InvalidURL, UnicodeError):
            raise BadInput("This is not a valid URL.", code="invalid_url", param=param) from None
        if target.scheme not in SCHEME_PORTS or not target.raw_host:
            raise BadInput("Media URLs start with http:, https: or data:.", code="invalid_url", param=param)
        if target.userinfo:
            raise BadInput("The URL holds a user name or password. Send one without.", code="invalid_url", param=param)
        return target

    async def _get(self, target: httpx.URL, max_bytes: int, param: str, reserve: Reserve) -> bytearray | str:
        """Return the body, or the location of a redirect."""
        wire = httpcore.URL(
            scheme=target.raw_scheme,
            host=target.raw_host,
            port=target.port or SCHEME_PORTS[target.scheme],
            target=target.raw_path,
        )
        step_s = self._policy.connect_s
        timeouts = {"connect": step_s, "read": self._policy.total_s, "write": step_s, "pool": self._policy.total_s}
        headers = [
            (b"Host", target.netloc),
            (b"User-Agent", USER_AGENT),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
        ]
        async with self._pool.stream("GET", wire, headers=headers, extensions={"timeout": timeouts}) as response:
            fields = {name.lower(): value.decode("latin-1") for name, value in response.headers}
            if response.status in REDIRECTS and b"location" in fields:
                return fields[b"location"]
            if response.status != 200:
                raise _failed(f"The URL answers with status {response.status}.", param)
            if fields.get(b"content-encoding", "identity") != "identity":
                raise _failed("The URL answers in a content encoding that was not asked for.", param)
            length = fields.get(b"content-length", "")
            reserved = int(length) if length.isdigit() else 0
            if reserved > max_bytes:
                raise _too_large(max_bytes, param)
            await reserve(reserved)
            body = bytearray()
            async for chunk in response.aiter_stream():
                got = len(body) + len(chunk)
                if got > max_bytes:
                    raise _too_large(max_bytes, param)
                if got > reserved:
                    await reserve(got - reserved)
                    reserved = got
                body += chunk
            return body


def _outside(limit: asyncio.Timeout, reserve: Reserve) -> Reserve:
    """Return `reserve`, which puts the time limit off for as long as it takes."""
    clock = asyncio.get_running_loop().time

    async def patiently(size: int) -> None:
        if limit.expired():
            raise TimeoutError
        began, end = clock(), limit.when()
        limit.reschedule(None)
        await reserve(size)
        limit.reschedule(end + clock() - began if end is not None else None)

    return patiently


def _failed(message: str, param: str) -> BadInput:
    return BadInput(message, code="media_unavailable", param=param)


def _too_large(max_bytes: int, param: str) -> TooLarge:
    return TooLarge(f"The file has more than {max_bytes} bytes. Send at most {max_bytes}.", param=param)
