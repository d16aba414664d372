"""Who may ask, and for which tenant. Keys are kept as their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import Unauthenticated

# Whose requests those are that come with the one key of ANTIPHON_API_KEY, or without any.
DEFAULT_TENANT = "default"
# What metrics call the tenants together that have no series of their own; no tenant may have this name.
OTHER_TENANTS = "other"
_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose request it is. `name` is what fair share and cache isolation go by, `label` what metrics call it."""

    name: str
    label: str


class ApiKeys:
    """Checks bearer tokens. Without any key everybody may ask: `settings` takes care that this is meant.

    `tenant_keys`: name of a tenant → SHA-256 of each of its keys, hexadecimal. Besides the default one, the first
    `shown_tenants` of them have a label of their own, so that metrics have a bounded number of series and all gateways
    show the same ones.
    """

    def __init__(
        self, api_key: str, tenant_keys: Mapping[str, Sequence[str]] | None = None, *, shown_tenants: int = 50
    ) -> None:
        named = {name: digests for name, digests in (tenant_keys or {}).items() if name != DEFAULT_TENANT}
        shown = set(list(named)[:shown_tenants])
        self._default = Tenant(DEFAULT_TENANT, DEFAULT_TENANT)
        # Found by its hash: how long that takes says nothing about a key, for nobody can choose a hash.
        self._by_digest = {
            bytes.fromhex(digest): Tenant(name, name if name in shown else OTHER_TENANTS)
            for name, digests in named.items()
            for digest in digests
        }
        for digest in (tenant_keys or {}).get(DEFAULT_TENANT, ()):
            self._by_digest[bytes.fromhex(digest)] = self._default
        if api_key:
            self._by_digest[_digest(api_key.encode())] = self._default

    @property
    def labels(self) -> frozenset[str]:
        """Of all tenants that may come."""
        return frozenset(tenant.label for tenant in (self._by_digest.values() or [self._default]))

    def tenant_of(self, authorization: bytes | None) -> Tenant:
        """`authorization`: the header, or the gRPC metadata, of that name. Raises Unauthenticated."""
        if not self._by_digest:
            return self._default
        if not authorization:
            raise Unauthenticated(
                "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY.",
                code="missing_api_key",
            )
        scheme, _, token = authorization[:_LONGEST_HEADER].partition(b" ")
        tenant = self._by_digest.get(_digest(token.strip()))
        if scheme.lower() != b"bearer" or tenant is None:
            raise Unauthenticated("Incorrect API key provided.")
        return tenant


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
