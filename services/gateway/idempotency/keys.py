"""Idempotency keys: a request with a key runs once, and whoever sends it again gets the first response.

take ─┬─ Claim: run it ─▶ finish: the response is kept ─▶ the claim is free
      ├─ KeptResponse: it has run
      └─ Conflict or BadInput: it runs just now, or the key is another request's
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager, asynccontextmanager

from services.common.errors import BadInput, Capacity, Conflict, Unavailable
from services.common.memory_budget import Hold, MemoryBudget
from services.gateway import metrics
from services.gateway.idempotency.claims import Claim, Claims, Held
from services.gateway.idempotency.response import KeptResponse, decoded
from services.gateway.kept.store import KeptStore
from services.gateway.turn.held_media import SMALL_BYTES

HEADER = "Idempotency-Key"
MAX_KEY_CHARS = 255
# A client that finds its request running asks again after as long as that has run, within these bounds.
_LEAST_RETRY_S, _MOST_RETRY_S = 1.0, 30.0
# A response that is read from Redis is in the connection's buffer, as its value and as its body.
_COPIES_WHEN_READ = 3

logger = logging.getLogger(__name__)


class IdempotencyKeys:
    """`response_bytes`: longer bodies are not kept. `memory`: what requests and their responses take from."""

    def __init__(self, claims: Claims, kept: KeptStore, memory: MemoryBudget, *, response_bytes: int) -> None:
        self._claims = claims
        self._kept = kept
        self._memory = memory
        self.response_bytes = response_bytes

    def room(self) -> AbstractContextManager[Hold]:
        """Hold inside the block what a response takes that is recorded or sent again. The request has a hold of its
        own, so this one never waits."""
        return self._memory.take_at_once(what="The response of an idempotency key")

    async def take(self, tenant: str, key: str, digest: str, hold: Hold) -> Claim | KeptResponse:
        """Claim a key for a request, or return the response that it already has: `hold` then has its memory.

        Raise Conflict where it runs just now, or its response was too large to be kept; BadInput where the key is that
        of another request; Capacity where there is no memory for the response; Unavailable.
        """
        try:
            if (response := await self._response(tenant, key, digest, hold)) is not None:
                return response
            taken = await self._claims.take(tenant, key, digest)
            if isinstance(taken, Held):
                if taken.digest != digest:
                    raise _other_request()
                raise _runs(taken.for_s)
            # Its holder may have finished between the two looks.
            response = await self._before_running(tenant, key, taken, hold)
        except Unavailable as error:
            raise Unavailable(
                f"'{HEADER}' can't be checked at the moment. Retry shortly, or send the request without it.",
                code="idempotency_unavailable",
                retry_after_s=error.retry_after_s,
            ) from None
        return response or taken

    async def _before_running(self, tenant: str, key: str, claim: Claim, hold: Hold) -> KeptResponse | None:
        runs = False
        try:
            response = await self._response(tenant, key, claim.digest, hold)
            runs = response is None
            return response
        finally:
            if not runs:
                await asyncio.shield(self._claims.free(claim))

    async def _response(self, tenant: str, key: str, digest: str, hold: Hold) -> KeptResponse | None:
        size_bytes = await self._kept.size(tenant, key)
        if size_bytes > SMALL_BYTES and not hold.grow_at_once(_COPIES_WHEN_READ * size_bytes):
            raise _no_room(size_bytes, self._memory)
        value = await self._kept.get(tenant, key) if size_bytes else None
        if value is None:
            hold.shrink(hold.size_bytes)
            return None
        response = decoded(value)
        del value
        hold.shrink(max(hold.size_bytes - size_bytes, 0))
        if response.digest != digest:
            raise _other_request()
        if response.body is None:
            raise _too_large()
        return response

    @asynccontextmanager
    async def run(self, claim: Claim) -> AsyncGenerator[None]:
        """Hold the claim inside the block."""
        async with self._claims.hold(claim):
            yield

    async def finish(self, tenant: str, key: str, response: bytes) -> None:
        """Keep a response, encoded. It goes out even if it can't be kept: nothing is raised."""
        try:
            await self._kept.put(tenant, key, response)
        except Unavailable:
            metrics.KEPT_FAILURES.labels("idempotency").inc()
            logger.warning("a response could not be kept for its idempotency key: Redis is away or full")


def check_key(key: str) -> None:
    """Raise BadInput where it can be no key."""
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable():
        raise BadInput(
            f"Invalid '{HEADER}': send 1 to {MAX_KEY_CHARS} printable ASCII characters, such as a UUID.", param=HEADER
        )


def _other_request() -> BadInput:
    return BadInput(
        f"Invalid '{HEADER}': another request was sent with this key. Send that one unchanged, or choose a new key.",
        param=HEADER,
        code="idempotency_key_reused",
    )


def _runs(for_s: float) -> Conflict:
    return Conflict(
        f"The first request with this '{HEADER}' still runs. Send it again later to get its response.",
        param=HEADER,
        code="idempotency_key_in_use",
        retry_after_s=min(max(for_s, _LEAST_RETRY_S), _MOST_RETRY_S),
    )


def _too_large() -> Conflict:
    return Conflict(
        f"The request with this '{HEADER}' has run, and its response was too large to be kept. Choose a new key to run"
        " it again.",
        param=HEADER,
        code="idempotent_response_too_large",
    )


def _no_room(size_bytes: int, memory: MemoryBudget) -> Capacity:
    return Capacity(
        f"The response of this '{HEADER}' has {size_bytes} bytes. All requests together have {memory.total_bytes} bytes"
        " of memory, and too little is left. Send the request again later.",
        param=HEADER,
        code="memory_full",
        retry_after_s=5,
    )
