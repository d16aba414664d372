"""The bodies of the Admin API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Generic, Literal, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field

from services.common.key_scopes import DEFAULT_SCOPES, Scope

NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,30}$"
TENANT_PATTERN = r"^[a-z0-9][a-z0-9._-]{0,62}$"
RESERVED_TENANTS = frozenset({"default", "other"})
"""The gateway's own: of ANTIPHON_API_KEY, and of all tenants without series of their own."""
MAX_OVERLAP_S = 30 * 86400.0
DEFAULT_OVERLAP_S = 86400.0
LAST_YEAR = 2999

Name = Annotated[str, Field(pattern=NAME_PATTERN, description="1 to 31 of a-z 0-9 _ -, unique among its siblings")]
KeyName = Annotated[str, Field(min_length=1, max_length=63, pattern=r"^[^\x00-\x1f\x7f]+$")]


def not_too_late(at: datetime | None) -> datetime | None:
    if at is not None and at.year > LAST_YEAR:
        raise ValueError(f"give a time up to the year {LAST_YEAR}, or leave it out")
    return at


Expiry = Annotated[
    AwareDatetime | None,
    AfterValidator(not_too_late),
    Field(description="RFC 3339, with a zone; null = it does not expire"),
]


def _not_reserved(tenant: str | None) -> str | None:
    if tenant in RESERVED_TENANTS:
        raise ValueError(f"'{tenant}' is reserved. Choose another name")
    return tenant


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=False)


class Reply(BaseModel):
    model_config = ConfigDict(from_attributes=True)


# What clients send


class NewOrganisation(Body):
    name: Name


class NewProject(Body):
    name: Name
    tenant: Annotated[
        str | None,
        Field(pattern=TENANT_PATTERN, description="its name in queues and metrics; null = organisation.project"),
        AfterValidator(_not_reserved),
    ] = None


class NewKey(Body):
    name: KeyName
    scopes: list[Scope] = Field(
        default=sorted(DEFAULT_SCOPES), min_length=1, max_length=32, description="what the key may be used for"
    )
    expires_at: Expiry = None


class Rotation(Body):
    overlap_s: float = Field(
        default=DEFAULT_OVERLAP_S, ge=0, le=MAX_OVERLAP_S, description="how long the old key still works"
    )
    expires_at: Expiry = None


class NewAdminKey(Body):
    name: KeyName
    expires_at: Expiry = None


# What they get


class OrganisationReply(Reply):
    object: Literal["organisation"] = "organisation"
    id: str
    name: str
    created_at: datetime
    archived_at: datetime | None


class ProjectReply(Reply):
    object: Literal["project"] = "project"
    id: str
    organisation_id: str
    name: str
    tenant: str
    created_at: datetime
    archived_at: datetime | None


class KeyReply(Reply):
    object: Literal["api_key"] = "api_key"
    id: str
    project_id: str
    name: str
    prefix: str = Field(description="the public part of the key, to find it by")
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    rotated_to: str | None = Field(description="the key that replaced it")


class NewKeyReply(KeyReply):
    secret: str = Field(description="the key itself; shown here and never again")


class RotationReply(NewKeyReply):
    replaces: KeyReply


class AdminKeyReply(Reply):
    object: Literal["admin_key"] = "admin_key"
    id: str
    name: str
    prefix: str
    is_bootstrap: bool = Field(description="it comes from ANTIPHON_BOOTSTRAP_ADMIN_KEY")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class NewAdminKeyReply(AdminKeyReply):
    secret: str = Field(description="the key itself; shown here and never again")


class AuditReply(Reply):
    object: Literal["audit_entry"] = "audit_entry"
    id: int
    at: datetime
    action: str
    actor: str = Field(description='id of the key that acted; "settings" = the process; "" = unknown')
    target: str = Field(description="id of what was acted on")
    request_id: str
    remote: str = Field(description="address of the client, or of the proxy before it")
    detail: dict[str, Any]


R = TypeVar("R", bound=BaseModel)


class Page(Reply, Generic[R]):
    object: Literal["list"] = "list"
    data: list[R]
    has_more: bool
    next_after: str | None = Field(description="`after` of the next page; null = this is the last one")


def page_of(reply: type[R], rows: Sequence[Any], more: bool) -> Page[R]:
    """Return a page of rows that have an `id`."""
    data = [reply.model_validate(row) for row in rows]
    return Page[R](data=data, has_more=more, next_after=str(rows[-1].id) if more else None)


# Queries


class Paging(Body):
    limit: int = Field(default=50, ge=1, le=200, description="rows of a page")
    after: str | None = Field(default=None, max_length=40, description="`next_after` of the page before")


class NamedPaging(Paging):
    name: str | None = Field(default=None, max_length=63, description="only the one of this name")


class KeyPaging(Paging):
    prefix: str | None = Field(default=None, max_length=63, description="only the key with this public part")


class KeySearch(Body):
    prefix: str = Field(min_length=1, max_length=63, description="public part of the key: what is before its last _")


class AuditPaging(Body):
    limit: int = Field(default=50, ge=1, le=200, description="rows of a page")
    after: int | None = Field(default=None, ge=0, le=2**53, description="`next_after` of the page before")
    order: Literal["asc", "desc"] = Field(default="desc", description="desc = the latest first; asc to export")
    action: str | None = Field(default=None, max_length=63, description='such as "key.create"')
    target: str | None = Field(default=None, max_length=40, description="id of what was acted on")
