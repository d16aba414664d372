"""API keys and their tenants. Keys are stored as hashes."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from services.common.errors import EXPIRED_API_KEY, Forbidden, NotFound, Unauthenticated, Unavailable
from services.common.key_scopes import ALL_SCOPES, Scope
from services.gateway import client_secrets
from services.gateway.turn.intent import ClientSecret, Principal

# The tenant of requests with ANTIPHON_API_KEY, or without a key.
DEFAULT_TENANT = "default"
# The label of all tenants without series of their own. No tenant may have this name.
OTHER_TENANTS = "other"
_LONGEST_HEADER = client_secrets.MAX_CHARS + 64
_RETRY_S = 5.0
# What stands for the key where none is needed.
_NO_KEY = hashlib.sha256(b"").digest()


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key of a tenant. Keys of tables have no id, every scope and no end."""

    sha256: bytes
    tenant: str
    id: str = ""
    scopes: frozenset[Scope] = ALL_SCOPES
    expires_unix_s: float = math.inf
    project_id: str = ""
    organisation_id: str = ""


class ApiKeys:
    """Checks bearer tokens. Without any key all requests pass; the settings make sure that this is intended.

    `tenant_keys` maps a tenant's name to the SHA-256 of each of its keys, in hexadecimal. `needed`: a key is needed,
    though none is known yet. The default tenant and the first `shown_tenants` have labels of their own, so that the
    number of series is bounded and equal on all gateways. A tenant keeps its label when others come and go.
    `secret_root` signs client secrets, and is the same on all gateways. Without it, those of `api_key` are signed with
    that, and other keys have none.
    """

    def __init__(
        self,
        api_key: str,
        tenant_keys: Mapping[str, Sequence[str]] | None = None,
        *,
        shown_tenants: int = 50,
        needed: bool = False,
        secret_root: bytes = b"",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._default = Principal(DEFAULT_TENANT, DEFAULT_TENANT)
        self._api_key = api_key.encode()
        self._default_digest = _digest(self._api_key) if api_key else None
        self._secret_root = secret_root
        self._most_shown = shown_tenants
        self._clock = clock
        self._shown: set[str] = set()
        # Looking up a hash leaks nothing about a key through its timing: nobody can choose a hash.
        self._by_digest: dict[bytes, tuple[Principal, float]] = {}
        # What client secrets call a key → its hash.
        self._by_name: dict[bytes, bytes] = {}
        # Id → when the key ends.
        self._ends_unix_s: dict[str, float] = {}
        self.good_until_unix_s = math.inf
        """When the tenants' keys are too old to be used. The default tenant's key is never."""
        self._open = not (needed or api_key or tenant_keys)
        self.set_tenants(tenant_keys or {})

    def set_tenants(self, tenant_keys: Mapping[str, Sequence[str]]) -> None:
        """Put a table in the place of all tenants before. Where any key was needed, one still is."""
        self.replace(keys_of_table(tenant_keys))

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Put these keys in the place of all before."""
        self._by_digest = {}
        own = _NO_KEY if self._open else self._default_digest
        self._by_name = {client_secrets.name_of_key(own): own} if own is not None else {}
        self._ends_unix_s = {}
        self.change(keys)

    def change(self, put: Iterable[ApiKey], gone: Iterable[bytes] = ()) -> None:
        """Add or change some keys, and forget those with the hashes in `gone`."""
        for digest in gone:
            principal, _ = self._by_digest.pop(digest, (None, 0.0))
            if principal is not None:
                self._ends_unix_s.pop(principal.key_id, None)
                del self._by_name[client_secrets.name_of_key(digest)]
        for key in put:
            self._by_digest[key.sha256] = self._principal(key), key.expires_unix_s
            self._by_name[client_secrets.name_of_key(key.sha256)] = key.sha256
            self._ends_unix_s[key.id] = key.expires_unix_s

    def has_key(self, principal: Principal) -> bool:
        """Return whether the key that a principal showed was not revoked since. Keys of tables have no id: they count
        as they did when the request came."""
        return not principal.key_id or principal.key_id in self._ends_unix_s

    def check_in_force(self, principal: Principal) -> None:
        """Raise Unauthenticated where the key has expired since it was shown: a session begins no turn with it."""
        if principal.key_id and self._ends_unix_s.get(principal.key_id, math.inf) <= self._clock():
            raise _expired()

    def holder_of(self, key_id: str, tenant: str) -> Principal | None:
        """Return who asks with a key, by its id, or "" for a key of a table or none; None = it is not known here."""
        if not key_id and tenant == DEFAULT_TENANT:
            return self._default
        for principal, expires_s in self._by_digest.values():
            if (principal.key_id, principal.tenant) == (key_id, tenant):
                return principal if expires_s > self._clock() else None
        return None

    @property
    def labels(self) -> frozenset[str]:
        """The labels of all tenants."""
        known = {principal.label for principal, _ in self._by_digest.values()}
        return frozenset(known | ({DEFAULT_TENANT} if self._default_digest or not known else set()))

    @property
    def can_be_checked(self) -> bool:
        """Whether any key could be found valid: not where all tenants' keys are too old, or never came."""
        return self._default_digest is not None or self._clock() < self.good_until_unix_s

    def principal_of(self, authorization: bytes | None) -> Principal:
        """Return who sent an `authorization` header or gRPC metadata value: a key, or a client secret of one. Raise
        Unauthenticated, or Unavailable where the keys are too old to tell."""
        token = bearer(authorization)
        principal = self._of_key(token)
        if principal is None and token.startswith(client_secrets.PREFIX):
            principal = self._of_secret(token)
        if principal is not None:
            return principal
        if self._open:
            return self._default
        if not authorization:
            raise Unauthenticated(
                "You didn't provide an API key. Send it in the header: Authorization: Bearer YOUR_KEY.",
                code="missing_api_key",
            )
        if token:
            self._check_age()
        raise _wrong_key()

    def make_secret(self, authorization: bytes | None, secret: ClientSecret) -> tuple[str, ClientSecret]:
        """Return a client secret of the key that the header shows, and what it is for: it never outlives its key.

        Raise what `principal_of` raises, Forbidden where the key may not make it, NotFound where this gateway can't
        sign it, and BadInput where it gets too long.
        """
        principal = self.principal_of(authorization)
        if principal.secret is not None:
            raise Forbidden("A client secret makes no client secrets. Use an API key.", code="api_key_needed")
        principal.check_scope(secret.scope)
        digest = _NO_KEY if self._open else _digest(bearer(authorization))
        root = self._root(digest)
        if root is None:
            raise NotFound(
                "This server makes no client secrets for this API key. The operator sets"
                " ANTIPHON_CLIENT_SECRET_SIGNING_KEY.",
                code="client_secrets_not_served",
            )
        _, until_s = self._by_digest.get(digest, (None, math.inf))
        secret = replace(secret, expires_unix_s=int(min(secret.expires_unix_s, until_s)))
        return client_secrets.signed(secret, digest, root), secret

    def _of_key(self, token: bytes) -> Principal | None:
        """Return whose key this is; None = nobody's. Raise Unauthenticated where it has expired, and Unavailable."""
        return self._with_digest(_digest(token)) if token else None

    def _with_digest(self, digest: bytes) -> Principal | None:
        if digest == self._default_digest:
            return self._default
        principal, expires_s = self._by_digest.get(digest, (None, 0.0))
        if principal is not None:
            self._check_age()
            if expires_s <= self._clock():
                raise _expired()
        return principal

    def _of_secret(self, token: bytes) -> Principal:
        name = client_secrets.key_named_by(token)
        digest = self._by_name.get(name or b"")
        if digest is None:
            self._check_age()  # its key may be one that has not come yet
            raise _wrong_key()
        root = self._root(digest)
        secret = client_secrets.verified(token, digest, root) if root is not None else None
        principal = self._default if self._open else self._with_digest(digest)
        if secret is None or principal is None:
            raise _wrong_key()
        if secret.expires_unix_s <= self._clock():
            raise Unauthenticated("The client secret has expired. Make another one.", code="expired_client_secret")
        return replace(principal, scopes=principal.scopes & {secret.scope}, secret=secret)

    def _root(self, digest: bytes) -> bytes | None:
        """Return what client secrets of a key are signed with; None = there is nothing that all gateways share, and
        that no holder of another key knows."""
        if self._secret_root or self._open:
            return self._secret_root
        return self._api_key if digest == self._default_digest else None

    def _check_age(self) -> None:
        if self._clock() >= self.good_until_unix_s:
            raise Unavailable(
                "API keys can't be checked at the moment. Retry later.", code="keys_unavailable", retry_after_s=_RETRY_S
            )

    def _principal(self, key: ApiKey) -> Principal:
        name = key.tenant
        if name != DEFAULT_TENANT and name not in self._shown and len(self._shown) < self._most_shown:
            self._shown.add(name)
        label = name if name == DEFAULT_TENANT or name in self._shown else OTHER_TENANTS
        return Principal(name, label, key.id, key.scopes, key.project_id, key.organisation_id)


def keys_of_table(tenant_keys: Mapping[str, Sequence[str]]) -> list[ApiKey]:
    """Return the keys of a table: tenant → the SHA-256 of each of its keys, in hexadecimal."""
    return [ApiKey(bytes.fromhex(digest), name) for name, digests in tenant_keys.items() for digest in digests]


def bearer(authorization: bytes | None) -> bytes:
    """Return the token of the header; b"" = there is none."""
    scheme, _, token = (authorization or b"")[:_LONGEST_HEADER].partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


def _wrong_key() -> Unauthenticated:
    return Unauthenticated(
        "Incorrect API key provided. Send a valid key in the header: Authorization: Bearer YOUR_KEY."
    )


def _expired() -> Unauthenticated:
    return Unauthenticated("The API key has expired. Use its successor.", code=EXPIRED_API_KEY)


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
