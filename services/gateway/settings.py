"""The gateway's settings. services/common/settings.py reads them."""

from __future__ import annotations

import hashlib
import re

from pydantic import Field, SecretStr, field_validator, model_validator

from services.common.settings import ServiceSettings
from services.gateway.auth import DEFAULT_TENANT, OTHER_TENANTS
from services.gateway.limits import RequestLimits

_TENANT = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class GatewaySettings(ServiceSettings):
    http_host: str = Field(default="127.0.0.1", description="address that the HTTP server binds")
    http_port: int = Field(default=8901, ge=0, le=65535, description="0 = any free port")
    api_key: SecretStr = Field(default=SecretStr(""), description="the key that clients send as a bearer token")
    tenant_keys: dict[str, list[str]] = Field(
        default_factory=dict[str, list[str]],
        description='JSON, tenant → SHA-256 of each of its keys: {"acme": ["<64 digits>"]}; with or without api_key',
    )
    metrics_tenants: int = Field(
        default=50, ge=0, le=1000, description="tenants with series of their own: the first ones of tenant_keys"
    )
    allow_anonymous: bool = Field(default=False, description="true = serve without a key; false = a key is required")
    request_timeout_s: float = Field(
        default=600.0, gt=0, le=1800, description="deadline of a request; a client may set a shorter one"
    )
    max_body_bytes: int = Field(default=64 * 1024**2, ge=1024, description="largest request body")
    max_media_bytes: int = Field(default=40 * 1024**2, ge=1, description="largest single media inside a request")
    max_text_bytes: int = Field(
        default=4 * 1024**2, ge=1024, le=12 * 1024**2, description="largest request without its inline media"
    )
    max_header_bytes: int = Field(default=32 * 1024, ge=1024, description="largest HTTP header block")
    body_timeout_s: float = Field(default=60.0, gt=0, description="how long a client may take to send its body")
    keep_alive_s: float = Field(
        default=15.0, gt=0, description="a stream without events gets a comment line this often"
    )
    cold_start_s: float = Field(
        default=0.0,
        ge=0,
        le=1800,
        description="how long a request waits for a first worker where all may be scaled to zero; 0 = no wait",
    )
    max_waiting: int = Field(default=1024, ge=1, description="requests that may wait in one queue")
    max_waiting_per_tenant: int = Field(
        default=1024, ge=1, description="requests of one tenant that may wait in one queue"
    )

    @field_validator("tenant_keys")
    @classmethod
    def names_and_hashes(cls, keys: dict[str, list[str]]) -> dict[str, list[str]]:
        """Check names and hashes. Errors give a tenant's position, because a wrong name may be a misplaced key."""
        owners: dict[str, int] = {}
        for place, (name, hashes) in enumerate(keys.items(), 1):
            if not _TENANT.fullmatch(name):
                raise ValueError(
                    f"tenant {place}: a name begins with a letter or digit and has at most 63 of a-z 0-9 . _ -"
                )
            if name == OTHER_TENANTS:
                raise ValueError(f"tenant {place}: '{OTHER_TENANTS}' is reserved for metrics: choose another name")
            if not hashes:
                raise ValueError(f"tenant {place} has no key")
            for hash_ in hashes:
                if not _SHA256.fullmatch(hash_):
                    raise ValueError(f"tenant {place}: each key must be given as its SHA-256, 64 digits of 0-9 a-f")
                if hash_ in owners:
                    raise ValueError(f"tenants {owners[hash_]} and {place} have the same key")
                owners[hash_] = place
        return keys

    @model_validator(mode="after")
    def key_or_none_on_purpose(self) -> GatewaySettings:
        api_key = self.api_key.get_secret_value()
        if not (api_key or self.tenant_keys or self.allow_anonymous):
            raise ValueError(
                "ANTIPHON_API_KEY is required, or ANTIPHON_TENANT_KEYS, or ANTIPHON_ALLOW_ANONYMOUS=true to serve"
                " without a key"
            )
        if api_key and self.allow_anonymous:
            raise ValueError(
                "ANTIPHON_API_KEY and ANTIPHON_ALLOW_ANONYMOUS=true contradict each other: set one of them"
            )
        if self.tenant_keys and self.allow_anonymous:
            raise ValueError(
                "ANTIPHON_TENANT_KEYS and ANTIPHON_ALLOW_ANONYMOUS=true contradict each other: set one of them"
            )
        hash_ = hashlib.sha256(api_key.encode()).hexdigest()
        if any(hash_ in hashes for name, hashes in self.tenant_keys.items() if name != DEFAULT_TENANT):
            raise ValueError(
                "ANTIPHON_API_KEY is also a tenant's key in ANTIPHON_TENANT_KEYS: give the tenant a key of its own"
            )
        if self.cold_start_s > self.request_timeout_s:
            raise ValueError("ANTIPHON_COLD_START_S is larger than ANTIPHON_REQUEST_TIMEOUT_S")
        if self.max_waiting_per_tenant > self.max_waiting:
            raise ValueError("ANTIPHON_MAX_WAITING_PER_TENANT is larger than ANTIPHON_MAX_WAITING")
        return self

    @property
    def limits(self) -> RequestLimits:
        return RequestLimits(
            max_body_bytes=self.max_body_bytes,
            max_media_bytes=self.max_media_bytes,
            max_text_bytes=self.max_text_bytes,
            body_timeout_s=self.body_timeout_s,
            request_timeout_s=self.request_timeout_s,
            keep_alive_s=self.keep_alive_s,
        )
