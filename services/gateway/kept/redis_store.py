"""A KeptStore in Redis. lua/kept.lua describes its keys."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Any

from services.common.redis_client import RedisClient, redis_call
from services.common.redis_functions import FunctionLibrary
from services.gateway import metrics


@dataclass(frozen=True, slots=True)
class KeptLimits:
    """How long values are kept, and how many bytes a tenant's and all tenants' may take in Redis."""

    ttl_s: float
    tenant_bytes: int
    all_bytes: int


LIBRARY = FunctionLibrary(
    "kept", resources.files("services.gateway.kept").joinpath("lua/kept.lua").read_text(encoding="utf-8")
)


class RedisKept:
    """Values of one `kind`. A Redis Cluster holds all of a kind on one node."""

    def __init__(self, redis: RedisClient, kind: str, limits: KeptLimits) -> None:
        self._redis = redis
        self._key = f"antiphon:kept:{kind}"
        self._limits = limits
        self._made_room = metrics.KEPT_EVICTED.labels(kind)

    async def put(self, tenant: str, id: str, value: bytes) -> float | None:
        limits = self._limits
        ends_unix_ms, made_room = await self._call(
            "put",
            value,
            id=_name(tenant, id),
            tenant=tenant,
            ttl_ms=round(limits.ttl_s * 1000),
            most_of_tenant=limits.tenant_bytes,
            most_of_all=limits.all_bytes,
        )
        self._made_room.inc(made_room)
        return ends_unix_ms / 1000 or None

    async def size(self, tenant: str, id: str) -> int:
        client: Any = self._redis
        async with redis_call():
            return await client.strlen(self._value_key(tenant, id))

    async def get(self, tenant: str, id: str) -> bytes | None:
        return (await self.get_many(tenant, [id]))[0]

    async def get_many(self, tenant: str, ids: Sequence[str]) -> list[bytes | None]:
        if not ids:
            return []
        client: Any = self._redis  # redis-py's types leave out that it decodes nothing here
        async with redis_call():
            return await client.mget([self._value_key(tenant, id) for id in ids])

    async def delete(self, tenant: str, id: str) -> bool:
        return bool(await self._call("delete", id=_name(tenant, id), tenant=tenant, when_full=True))

    def _value_key(self, tenant: str, id: str) -> str:
        return f"{{{self._key}}}:value:{_name(tenant, id)}"

    async def _call(self, operation: str, *values: bytes, when_full: bool = False, **arguments: Any) -> Any:
        words = [operation, json.dumps(arguments, separators=(",", ":")), *values]
        async with redis_call():
            return await LIBRARY.call(self._redis, self._key, words, when_full=when_full)


def _name(tenant: str, id: str) -> str:
    """Return the name of a value, of one length whatever the client sent."""
    return sha256(f"{tenant}\0{id}".encode(errors="surrogatepass")).hexdigest()[:32]
