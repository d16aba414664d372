"""Caches between requests, so that a conversation's next turn neither fetches nor decodes its media again."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class SizedCache(Generic[K, V]):
    """Least recently used first out, within a budget of bytes. Not thread-safe: one event loop uses it.

    `size_of` must count all the memory that a value holds, not only the part that it shows.
    """

    def __init__(self, budget_bytes: int, size_of: Callable[[V], int]) -> None:
        self._budget_bytes = budget_bytes
        self._size_of = size_of
        self._values: OrderedDict[K, V] = OrderedDict()
        self.used_bytes = 0

    def get(self, key: K) -> V | None:
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Keep `value`, unless it is larger than the whole budget."""
        self.discard(key)
        size = self._size_of(value)
        if size > self._budget_bytes:
            return
        self._values[key] = value
        self.used_bytes += size
        while self.used_bytes > self._budget_bytes:
            _, dropped = self._values.popitem(last=False)
            self.used_bytes -= self._size_of(dropped)

    def discard(self, key: K) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self.used_bytes -= self._size_of(value)


class UrlMemory:
    """The content that a URL had when a tenant's request last fetched it. Forgotten after `ttl_s`.

    Each tenant has its own, so that nobody learns what others fetch, and a URL that answers one tenant is not assumed
    to answer another.
    """

    def __init__(self, ttl_s: float, *, most: int = 65_536, clock: Callable[[], float] = time.monotonic) -> None:
        self._ttl_s = ttl_s
        self._most = most
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def recall(self, tenant: str, url: str) -> str | None:
        found = self._known.get(_name(tenant, url))
        if found is None or found[1] <= self._clock():
            return None
        return found[0]

    def remember(self, tenant: str, url: str, content_hash: str) -> None:
        key = _name(tenant, url)
        self._known[key] = (content_hash, self._clock() + self._ttl_s)
        self._known.move_to_end(key)
        while len(self._known) > self._most:
            self._known.popitem(last=False)


def _name(tenant: str, url: str) -> bytes:
    """A key of fixed size: a URL may be thousands of characters long."""
    return hashlib.sha256(f"{len(tenant)} {tenant} {url}".encode()).digest()
