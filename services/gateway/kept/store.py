"""What the gateway keeps for a while, for all gateways: the interface of a store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol


class KeptStore(Protocol):
    """Values of one kind. Each belongs to a tenant, and no other tenant can find it.

    A value is kept for the store's time. Where it would take more bytes than the tenant, or all tenants, may have, the
    oldest values make room: the tenant's own, or those of the tenant that has the most.

    An id is any text. An unknown, an expired and another tenant's id are looked up in the same way and the same time.
    All methods raise Unavailable where the values can't be reached.
    """

    async def put(self, tenant: str, id: str, value: bytes) -> float | None:
        """Keep a value, in the place of the one before. Return until when, Unix seconds; None = it is larger than a
        tenant's values may be, and nothing is kept under this id."""
        ...

    async def size(self, tenant: str, id: str) -> int:
        """Return how many bytes the value has; 0 = there is none of this tenant."""
        ...

    async def get(self, tenant: str, id: str) -> bytes | None:
        """Return the value; None = there is none of this tenant."""
        ...

    async def get_many(self, tenant: str, ids: Sequence[str]) -> list[bytes | None]:
        """Return the value of each id, as `get` does, in one call."""
        ...

    async def delete(self, tenant: str, id: str) -> bool:
        """Return whether there was a value."""
        ...
