"""Tenants: the forms of their keys and of their terms."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from services.common.queues.tickets import Group, PriorityClass
from services.gateway.auth import DEFAULT_TENANT, OTHER_TENANTS, ApiKey, keys_of_table
from services.gateway.usage.limits import SubjectTerms
from services.gateway.usage.prices import Price

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class TenantTermsSettings(BaseModel):
    """What one tenant gets of each queue; see services/common/queues/tickets.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weight: float = Field(default=1.0, gt=0, le=1e6, description="2 = twice the share of a tenant with 1")
    priority: int = Field(
        default=0, ge=PriorityClass.LOWEST, le=PriorityClass.HIGHEST, description="added to that of its requests"
    )
    max_slots: int = Field(default=0, ge=0, description="slots of a stage that it holds at most; 0 = any number")
    max_share: float = Field(default=1.0, gt=0, le=1, description="the same as a part of all slots of the stage")


@dataclass(frozen=True, slots=True)
class TenantUpdate:
    """A change of the tenants. `whole`: `put` stands in the place of all keys before, and `put_subjects` in that of all
    subjects' terms. `terms` are those of the queues, `groups` the organisations there that have a limit, by tenant.
    `terms`, with `groups`, and `prices`: None = as before."""

    put: Sequence[ApiKey] = ()
    gone: Sequence[bytes] = ()
    whole: bool = False
    terms: Mapping[str, TenantTermsSettings] | None = None
    groups: Mapping[str, Group] = field(default_factory=dict[str, Group])
    good_until_unix_s: float = math.inf
    put_subjects: Mapping[str, SubjectTerms] = field(default_factory=dict[str, SubjectTerms])
    gone_subjects: Sequence[str] = ()
    prices: Sequence[Price] | None = None


UseTenants = Callable[[TenantUpdate], None]


class TenantSource(Protocol):
    """Where tenants come from: the settings, files, or the control plane."""

    def start(self) -> TenantUpdate:
        """Return the tenants to start with. Raise SettingsError where what settings name is wrong."""
        ...

    async def follow(self, use: UseTenants) -> None:
        """`use` each change as it happens, until cancelled. Return where there will be none."""
        ...


class TableTenants:
    """Those of the settings."""

    def __init__(self, keys: Mapping[str, list[str]], terms: Mapping[str, TenantTermsSettings]) -> None:
        self._update = TenantUpdate(keys_of_table(keys), whole=True, terms=terms)

    def start(self) -> TenantUpdate:
        return self._update

    async def follow(self, use: UseTenants) -> None:
        """Settings never change."""


def check_keys(keys: Mapping[str, list[str]]) -> None:
    """Check names and hashes. Raise ValueError with a tenant's place: a wrong name may be a misplaced key."""
    owners: dict[str, int] = {}
    for place, (name, hashes) in enumerate(keys.items(), 1):
        if not NAME.fullmatch(name):
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


def has_key(keys: Mapping[str, list[str]], api_key: str) -> bool:
    """Return whether a tenant but the default one has this key."""
    hash_ = hashlib.sha256(api_key.encode()).hexdigest()
    return any(hash_ in hashes for name, hashes in keys.items() if name != DEFAULT_TENANT)
