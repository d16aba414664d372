"""Files, batches, their lines and those who run them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_ID, _NAME, _TEXT = sa.String(40), sa.String(63), sa.String(255)


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("filename", _TEXT, nullable=False),
        sa.Column("purpose", _NAME, nullable=False),
        sa.Column("bytes", _BIG, nullable=False),
        sa.Column("state", _NAME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME),
    )
    op.create_index("files_by_tenant", "files", ["tenant", "id"])
    op.create_index("ix_files_state", "files", ["state"])
    op.create_index("ix_files_expires_at", "files", ["expires_at"])
    op.create_table(
        "batches",
        sa.Column("id", _ID, primary_key=True),
        sa.Column("tenant", _NAME, nullable=False),
        sa.Column("key_id", _ID, nullable=False),
        sa.Column("endpoint", _NAME, nullable=False),
        sa.Column("input_file_id", _ID, nullable=False),
        sa.Column("window_s", _BIG, nullable=False),
        sa.Column("output_expires_after_s", _BIG, nullable=False),
        sa.Column("status", _NAME, nullable=False),
        sa.Column("times", sa.JSON(), nullable=False),
        sa.Column("ending", _NAME, nullable=False),
        sa.Column("output_file_id", _ID, nullable=False),
        sa.Column("error_file_id", _ID, nullable=False),
        sa.Column("errors", sa.JSON(), nullable=False),
        sa.Column("given_metadata", sa.JSON(), nullable=False),
        sa.Column("model", _TEXT, nullable=False),
        *(sa.Column(f"lines_{name}", _BIG, nullable=False) for name in ("total", "completed", "failed")),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("expires_at", _TIME, nullable=False),
        sa.Column("runner", _ID, nullable=False),
        sa.Column("served_at", _TIME, nullable=False),
        sa.Column("is_removed", sa.Boolean(), nullable=False),
    )
    op.create_index("batches_by_tenant", "batches", ["tenant", "id"])
    open_ones = sa.text("NOT is_removed")
    op.create_index("batches_open", "batches", ["status"], sqlite_where=open_ones, postgresql_where=open_ones)
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", _ID, sa.ForeignKey("batches.id"), primary_key=True),
        sa.Column("number", _BIG, primary_key=True, autoincrement=False),
        sa.Column("offset", _BIG, nullable=False),
        sa.Column("bytes", _BIG, nullable=False),
        sa.Column("runner", _ID, nullable=False),
        sa.Column("not_before", _TIME),
        sa.Column("failures", _BIG, nullable=False),
        sa.Column("object", _TEXT, nullable=False),
        sa.Column("result_offset", _BIG, nullable=False),
        sa.Column("result_bytes", _BIG, nullable=False),
        sa.Column("is_error", sa.Boolean(), nullable=False),
    )
    no_result = sa.text("object = ''")
    op.create_index(
        "batch_lines_open",
        "batch_lines",
        ["batch_id", "number"],
        sqlite_where=no_result,
        postgresql_where=no_result,
    )
    held = sa.text("object = '' AND runner <> ''")
    op.create_index("batch_lines_held", "batch_lines", ["runner"], sqlite_where=held, postgresql_where=held)
    op.create_table("batch_runners", sa.Column("id", _ID, primary_key=True), sa.Column("until", _TIME, nullable=False))


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: going back would drop every file and batch")
