"""The tables of files and batches. Their bytes are in the object store."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import JSON, ForeignKey, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from services.control.store.models import BIG, ID, NAME, TEXT, Base, UtcDateTime


class FileRow(Base):
    """A file, or what is left of one in the object store: a row goes once its bytes are removed there."""

    __tablename__ = "files"
    __table_args__ = (Index("files_by_tenant", "tenant", "id"),)

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    tenant: Mapped[str] = mapped_column(NAME)
    filename: Mapped[str] = mapped_column(TEXT)
    purpose: Mapped[str] = mapped_column(NAME)
    bytes: Mapped[int] = mapped_column(BIG)
    # "uploading", "ready" or "gone".
    state: Mapped[str] = mapped_column(NAME, index=True)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime | None] = mapped_column(UtcDateTime, index=True)


class BatchRow(Base):
    """A batch. `status` is OpenAI's."""

    __tablename__ = "batches"
    __table_args__ = (
        Index("batches_by_tenant", "tenant", "id"),
        Index(
            "batches_open",
            "status",
            sqlite_where=text("NOT is_removed"),
            postgresql_where=text("NOT is_removed"),
        ),
    )

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    tenant: Mapped[str] = mapped_column(NAME)
    key_id: Mapped[str] = mapped_column(ID)
    endpoint: Mapped[str] = mapped_column(NAME)
    input_file_id: Mapped[str] = mapped_column(ID)
    window_s: Mapped[int] = mapped_column(BIG)
    output_expires_after_s: Mapped[int] = mapped_column(BIG)
    status: Mapped[str] = mapped_column(NAME)
    # Status → when it came into it, seconds since the epoch.
    times: Mapped[dict[str, int]] = mapped_column(JSON)
    # While it is finalizing: the status that it ends in.
    ending: Mapped[str] = mapped_column(NAME)
    output_file_id: Mapped[str] = mapped_column(ID)
    error_file_id: Mapped[str] = mapped_column(ID)
    errors: Mapped[list[dict[str, Any]]] = mapped_column(JSON)
    # Not `metadata`, which SQLAlchemy has for itself.
    given_metadata: Mapped[dict[str, str]] = mapped_column(JSON)
    model: Mapped[str] = mapped_column(TEXT)
    lines_total: Mapped[int] = mapped_column(BIG)
    lines_completed: Mapped[int] = mapped_column(BIG)
    lines_failed: Mapped[int] = mapped_column(BIG)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    expires_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Who holds its job; "" = nobody.
    runner: Mapped[str] = mapped_column(ID)
    # When lines of it were taken last.
    served_at: Mapped[datetime] = mapped_column(UtcDateTime)
    # Its results are no longer in the object store, but for its files.
    is_removed: Mapped[bool] = mapped_column()


class BatchLine(Base):
    """A line of a batch's input, until the batch is over."""

    __tablename__ = "batch_lines"
    __table_args__ = (
        Index(
            "batch_lines_open",
            "batch_id",
            "number",
            sqlite_where=text("object = ''"),
            postgresql_where=text("object = ''"),
        ),
        Index(
            "batch_lines_held",
            "runner",
            sqlite_where=text("object = '' AND runner <> ''"),
            postgresql_where=text("object = '' AND runner <> ''"),
        ),
    )

    batch_id: Mapped[str] = mapped_column(ForeignKey("batches.id"), primary_key=True)
    number: Mapped[int] = mapped_column(BIG, primary_key=True, autoincrement=False)
    # Where it is in the input.
    offset: Mapped[int] = mapped_column(BIG)
    bytes: Mapped[int] = mapped_column(BIG)
    # Who holds it; "" = nobody.
    runner: Mapped[str] = mapped_column(ID)
    # Nobody takes it before; None = it was never given back.
    not_before: Mapped[datetime | None] = mapped_column(UtcDateTime)
    failures: Mapped[int] = mapped_column(BIG)
    # The object that holds its result, and where in it; "" = there is none yet.
    object: Mapped[str] = mapped_column(TEXT)
    result_offset: Mapped[int] = mapped_column(BIG)
    result_bytes: Mapped[int] = mapped_column(BIG)
    is_error: Mapped[bool] = mapped_column()


class BatchRunner(Base):
    """A runner that was heard of. After `until` what it holds may be taken by others."""

    __tablename__ = "batch_runners"

    id: Mapped[str] = mapped_column(ID, primary_key=True)
    until: Mapped[datetime] = mapped_column(UtcDateTime)
