"""The database's tables. Ids sort by the time of their creation."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    TypeDecorator,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

ID = String(40)
NAME = String(63)
TEXT = String(255)
BIG = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers rows by themselves only where this is the type


class UtcDateTime(TypeDecorator[datetime]):
    """A time with a zone. SQLite keeps none, so it holds UTC."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value is not None else None

    def process_result_value(self, value: Any | None, dialect: Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None and value.tzinfo is None else value


class Base(DeclarativeBase):
    pass


class TenantVersion(Base):
    """One row. Whoever writes locks it first, so that versions are committed in their order."""

    __tablename__ = "tenant_version"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    epoch: Mapped[str] = mapped_column(ID)
    version: Mapped[int] = mapped_column(BIG)


class Organisation(Base):
    __tablename__ = "organisations"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class Project(Base):
    """A tenant of the queues. An archived project keeps its names."""

    __tablename__ = "projects"
    __table_args__ = (Index("projects_by_name", "organisation_id", "name", unique=True),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    organisation_id: Mapped[str] = mapped_column(ForeignKey("organisations.id"))
    name: Mapped[str] = mapped_column(NAME)
    tenant: Mapped[str] = mapped_column(NAME, unique=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    archived_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class ApiKey(Base):
    """A key of a project, as its hash. Revoked keys stay: `version` is that of the row's last change."""

    __tablename__ = "api_keys"
    __table_args__ = (
        # One key of a name in use at a time: what makes creation idempotent.
        Index(
            "api_keys_by_name",
            "project_id",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL AND rotated_to IS NULL"),
            postgresql_where=text("revoked_at IS NULL AND rotated_to IS NULL"),
        ),
        Index("api_keys_by_project", "project_id", "id"),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    project_id: Mapped[str] = mapped_column(ForeignKey("projects.id"))
    name: Mapped[str] = mapped_column(NAME)
    prefix: Mapped[str] = mapped_column(NAME, index=True)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    scopes: Mapped[list[str]] = mapped_column(JSON)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    rotated_to: Mapped[str | None] = mapped_column(ForeignKey("api_keys.id"))
    version: Mapped[int] = mapped_column(BIG, index=True)


class AdminKey(Base):
    """A key of the Admin API. `is_bootstrap`: it comes from the settings."""

    __tablename__ = "admin_keys"
    __table_args__ = (
        Index(
            "admin_keys_by_name",
            "name",
            unique=True,
            sqlite_where=text("revoked_at IS NULL"),
            postgresql_where=text("revoked_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    name: Mapped[str] = mapped_column(NAME)
    prefix: Mapped[str] = mapped_column(NAME)
    sha256: Mapped[str] = mapped_column(String(64), unique=True)
    is_bootstrap: Mapped[bool]
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime)
    revoked_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class AuditEntry(Base):
    """One act, or one refused key. Triggers of the database refuse to change or delete a row."""

    __tablename__ = "audit_log"

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    action: Mapped[str] = mapped_column(NAME, index=True)
    # The id of an admin key or API key, "settings", or "" where nobody could be told.
    actor: Mapped[str] = mapped_column(ID)
    target: Mapped[str] = mapped_column(ID, index=True)
    request_id: Mapped[str] = mapped_column(NAME)
    remote: Mapped[str] = mapped_column(TEXT)
    detail: Mapped[dict[str, Any]] = mapped_column(JSON)


class SubjectTerms(Base):
    """What an operator granted a key, project or organisation. A row that grants nothing any more stays, as a change
    that gateways are to hear of: `is_set` false."""

    __tablename__ = "subject_terms"

    subject: Mapped[str] = mapped_column(ID, primary_key=True)
    # Limit kind → {"amount", "passes_without_redis"}.
    limits: Mapped[dict[str, dict[str, Any]]] = mapped_column(JSON)
    # Empty = all that are served.
    models: Mapped[list[str]] = mapped_column(JSON)
    voices: Mapped[list[str]] = mapped_column(JSON)
    # Of a project: its place in the queues. Of an organisation: the last two.
    weight: Mapped[float]
    priority: Mapped[int]
    max_slots: Mapped[int]
    max_share: Mapped[float]
    is_set: Mapped[bool]
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(BIG, index=True)


class Price(Base):
    """What a million units of a kind cost from a time on. Triggers of the database refuse to change or delete a row."""

    __tablename__ = "prices"
    __table_args__ = (Index("prices_by_time", "model", "kind", "from_at", unique=True),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    # "" = every model without a price of its own.
    model: Mapped[str] = mapped_column(TEXT)
    kind: Mapped[str] = mapped_column(NAME)
    # Millionths of the currency: whole numbers, which SQLite keeps exactly too.
    micros_per_million: Mapped[int] = mapped_column(BIG)
    from_at: Mapped[datetime] = mapped_column(UtcDateTime)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    version: Mapped[int] = mapped_column(BIG, index=True)


class _Amounts:
    """Columns of Amounts (usage.proto), and what they cost."""

    prompt_text_tokens: Mapped[int] = mapped_column(BIG)
    prompt_audio_tokens: Mapped[int] = mapped_column(BIG)
    prompt_image_tokens: Mapped[int] = mapped_column(BIG)
    prompt_video_tokens: Mapped[int] = mapped_column(BIG)
    cached_tokens: Mapped[int] = mapped_column(BIG)
    completion_text_tokens: Mapped[int] = mapped_column(BIG)
    reasoning_tokens: Mapped[int] = mapped_column(BIG)
    completion_audio_tokens: Mapped[int] = mapped_column(BIG)
    audio_in_ms: Mapped[int] = mapped_column(BIG)
    audio_out_ms: Mapped[int] = mapped_column(BIG)
    media_bytes: Mapped[int] = mapped_column(BIG)
    cost_micros: Mapped[int] = mapped_column(BIG)


class UsageRow(_Amounts, Base):
    """One UsageRecord. `seq` numbers them in the order of their commits, so that a cursor misses none."""

    __tablename__ = "usage_records"

    turn_id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    seq: Mapped[int] = mapped_column(BIG, unique=True)
    organisation_id: Mapped[str] = mapped_column(TEXT)
    project_id: Mapped[str] = mapped_column(TEXT)
    tenant: Mapped[str] = mapped_column(TEXT)
    key_id: Mapped[str] = mapped_column(TEXT)
    model: Mapped[str] = mapped_column(TEXT)
    kind: Mapped[str] = mapped_column(TEXT)
    began_at: Mapped[datetime] = mapped_column(UtcDateTime)
    ended_at: Mapped[datetime] = mapped_column(UtcDateTime, index=True)
    outcome: Mapped[str] = mapped_column(TEXT)
    limit_kind: Mapped[str] = mapped_column(TEXT)
    attempts: Mapped[int] = mapped_column(BIG)
    price_ids: Mapped[list[str]] = mapped_column(JSON)
    gateway: Mapped[str] = mapped_column(TEXT)
    # "" = the speech followed its text, or there was none.
    derailment: Mapped[str] = mapped_column(TEXT, server_default="")
    spoken_again: Mapped[int] = mapped_column(BIG, server_default="0")


class UsageSum(_Amounts, Base):
    """What the records of one UTC day sum up to. Written in the records' own transaction."""

    __tablename__ = "usage_sums"
    __table_args__ = (
        Index("usage_sums_by_organisation", "organisation_id", "day"),
        Index("usage_sums_by_project", "project_id", "day"),
        Index("usage_sums_by_key", "key_id", "day"),
    )

    # The day on which the turns ended.
    day: Mapped[date] = mapped_column(primary_key=True)
    organisation_id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    project_id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    # Tells the tenants of a table apart, whose ids are "".
    tenant: Mapped[str] = mapped_column(TEXT, primary_key=True)
    key_id: Mapped[str] = mapped_column(TEXT, primary_key=True)
    model: Mapped[str] = mapped_column(TEXT, primary_key=True)
    requests: Mapped[int] = mapped_column(BIG)
    # Records that have a `derailment`.
    derailed_requests: Mapped[int] = mapped_column(BIG, server_default="0")
    spoken_again: Mapped[int] = mapped_column(BIG, server_default="0")


class RejectedRecord(Base):
    """An entry of the stream that is no usage record, as it came: it must neither be lost nor stop the others."""

    __tablename__ = "usage_rejected"

    id: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=True)
    at: Mapped[datetime] = mapped_column(UtcDateTime)
    reason: Mapped[str] = mapped_column(TEXT)
    body: Mapped[bytes] = mapped_column(LargeBinary)


class LedgerState(Base):
    """One row. Whoever writes records locks it first, so that `seq` grows in the order of commits."""

    __tablename__ = "ledger_state"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    last_seq: Mapped[int] = mapped_column(BIG)
    # The latest end of a turn among the records.
    last_ended_at: Mapped[datetime | None] = mapped_column(UtcDateTime)


class EventCursor(Base):
    """One row: up to which record CloudEvents were taken, and which replica sends them until when."""

    __tablename__ = "event_cursor"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    sent_seq: Mapped[int] = mapped_column(BIG)
    sender: Mapped[str] = mapped_column(ID)
    until: Mapped[datetime | None] = mapped_column(UtcDateTime)
