"""API keys and their tenants. Keys are stored as hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from services.common.errors import Unauthenticated

# The tenant of requests with ANTIPHON_API_KEY, or without a key.
DEFAULT_TENANT = "default"
# The label of all tenants without series of their own. No tenant may have this name.
OTHER_TENANTS = "other"
_LONGEST_HEADER = 4096


@dataclass(frozen=True, slots=True)
class Tenant:
    """The owner of a request. Fair share and cache isolation use `name`, metrics use `label`."""

    name: str
    label: str


class ApiKeys:
    """Checks bearer tokens. Without any key all requests pass; the settings make sure that this is intended.

    `tenant_keys` maps a tenant's name to the SHA-256 of each of its keys, in hexadecimal. The default tenant and the
    first `shown_tenants` have labels of their own, so that the number of series is bounded and equal on all gateways.
    """

    def __init__(
        self, api_key: str, tenant_keys: Mapping[str, Sequence[str]] | None = None, *, shown_tenants: int = 50
    ) -> None:
        named = {name: digests for name, digests in (tenant_keys or {}).items() if name != DEFAULT_TENANT}
        shown = set(list(named)[:shown_tenants])
        self._default = Tenant(DEFAULT_TENANT, DEFAULT_TENANT)
        # Looking up a hash leaks nothing about a key through its timing: nobody can choose a hash.
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
        """The labels of all tenants."""
        return frozenset(tenant.label for tenant in (self._by_digest.values() or [self._default]))

    def tenant_of(self, authorization: bytes | None) -> Tenant:
        """Return the tenant of an `authorization` header or gRPC metadata value. Raise Unauthenticated."""
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
            raise Unauthenticated(
                "Incorrect API key provided. Send a valid key in the header: Authorization: Bearer YOUR_KEY."
            )
        return tenant


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
