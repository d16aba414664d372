"""Limits on calls that need no key: health checks and reflection, on a server that strangers reach.

gRPC itself reads the request of a unary method before it calls the method: for as long as it takes, and from any
number of callers at once. A method that is registered as one that reads a stream reads it itself; on the wire both are
the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from services.common.errors import Capacity, SlowBody

# Each may have a whole message in memory before it is known what it is.
MOST_READS = 8
_READ_S = 10.0
_MOST_CALLS = 1024


class OpenCalls:
    """One call or read too many ends the oldest one. A probe's request comes in one piece with its call and is answered
    at once, so that it is never the oldest for long."""

    def __init__(self, most_calls: int = _MOST_CALLS, most_reads: int = MOST_READS, read_s: float = _READ_S) -> None:
        self._most_calls = most_calls
        self._most_reads = most_reads
        self._read_s = read_s
        self._calls: dict[asyncio.Timeout, None] = {}
        self._reads: dict[asyncio.Timeout, None] = {}

    @asynccontextmanager
    async def call(self) -> AsyncGenerator[None]:
        """Run a call inside the block. Raise Capacity where it was the oldest of too many."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                _enter(self._calls, limit, self._most_calls)
                yield
        except TimeoutError:
            if not limit.expired():  # the system's own, which is an OSError
                raise
            raise Capacity("Too many calls without a key are open. Call again.") from None
        finally:
            self._calls.pop(limit, None)

    async def read(self, requests: AsyncIterator[bytes]) -> bytes:
        """Return the next request. Raise StopAsyncIteration after the last one, or SlowBody."""
        limit = asyncio.timeout(self._read_s)
        try:
            async with limit:
                _enter(self._reads, limit, self._most_reads)
                return await anext(requests)
        except TimeoutError:
            if not limit.expired():
                raise
            raise SlowBody("The request did not arrive in time. Send it in one piece with the call.") from None
        finally:
            self._reads.pop(limit, None)


def _enter(limits: dict[asyncio.Timeout, None], limit: asyncio.Timeout, most: int) -> None:
    """Add `limit`. Where it is one too many, let the oldest expire now."""
    if len(limits) >= most:
        oldest = next(iter(limits))
        del limits[oldest]
        oldest.reschedule(asyncio.get_running_loop().time())
    limits[limit] = None
