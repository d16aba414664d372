"""Who runs the request of an idempotency key, for all gateways. lua/claims.lua runs in Redis."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import resources
from typing import Any

from services.common.errors import Unavailable
from services.common.redis_client import RedisClient, redis_call
from services.common.redis_functions import FunctionLibrary

TTL_S = 15.0
"""The claim of a gateway that died is free after this time at most."""

LIBRARY = FunctionLibrary(
    "claims", resources.files("services.gateway.idempotency").joinpath("lua/claims.lua").read_text(encoding="utf-8")
)


@dataclass(frozen=True, slots=True)
class Claim:
    key: str
    digest: str
    token: str = field(default_factory=lambda: secrets.token_hex(16))


@dataclass(frozen=True, slots=True)
class Held:
    """Another holds the claim: the digest of its request, and how long it has held it."""

    digest: str
    for_s: float


class Claims:
    """All methods but `free` raise Unavailable."""

    def __init__(self, redis: RedisClient, ttl_s: float = TTL_S) -> None:
        self._redis = redis
        self._ttl_s = ttl_s

    async def take(self, tenant: str, idempotency_key: str, digest: str) -> Claim | Held:
        """Claim a key for a request. The claim has to be held from then on."""
        name = sha256(f"{tenant}\0{idempotency_key}".encode()).hexdigest()[:32]
        claim = Claim(f"antiphon:idempotency-claim:{name}", digest)
        held = await self._call("take", claim, digest, self._ttl_ms)
        return Held(held[0].decode(), held[1] / 1000) if held else claim

    @asynccontextmanager
    async def hold(self, claim: Claim) -> AsyncGenerator[None]:
        """Hold a claim inside the block, also over an outage of Redis, and free it at the end."""
        renewing = asyncio.create_task(self._keep_renewing(claim), name="renew claim")
        try:
            yield
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.free(claim)

    async def renew(self, claim: Claim) -> bool:
        """Keep a claim, also where Redis has lost it. Return False where another holds it by now."""
        return bool(await self._call("renew", claim, claim.digest, self._ttl_ms))

    async def free(self, claim: Claim) -> None:
        """Let others claim the key. Where Redis is away the claim expires."""
        with suppress(Unavailable):
            await self._call("free", claim)

    async def _keep_renewing(self, claim: Claim) -> None:
        while True:
            await asyncio.sleep(self._ttl_s / 4)
            with suppress(Unavailable):
                await self.renew(claim)

    @property
    def _ttl_ms(self) -> int:
        return round(self._ttl_s * 1000)

    async def _call(self, operation: str, claim: Claim, *words: str | int) -> Any:
        async with redis_call():
            return await LIBRARY.call(
                self._redis, claim.key, [operation, claim.token, *words], when_full=operation == "free"
            )
