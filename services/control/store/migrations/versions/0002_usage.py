"""Terms and limits of subjects, prices, and usage records with their sums."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_TIME = sa.DateTime(timezone=True)
_AMOUNTS = (
    "prompt_text_tokens",
    "prompt_audio_tokens",
    "prompt_image_tokens",
    "prompt_video_tokens",
    "cached_tokens",
    "completion_text_tokens",
    "reasoning_tokens",
    "completion_audio_tokens",
    "audio_in_ms",
    "audio_out_ms",
    "media_bytes",
    "cost_micros",
)
_SQLITE_APPEND_ONLY = """
CREATE TRIGGER prices_no_{verb} BEFORE {verb} ON prices
BEGIN SELECT RAISE(ABORT, 'prices are append-only: add a later one'); END
"""
_POSTGRESQL_APPEND_ONLY = (
    """
CREATE FUNCTION prices_refuse() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'prices are append-only: add a later one'; END $$
""",
    """
CREATE TRIGGER prices_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON prices
FOR EACH STATEMENT EXECUTE FUNCTION prices_refuse()
""",
)


def upgrade() -> None:
    _terms()
    _prices()
    _usage()
    state = op.create_table(
        "ledger_state",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("last_seq", _BIG, nullable=False),
        sa.Column("last_ended_at", _TIME),
    )
    op.bulk_insert(state, [{"id": 1, "last_seq": 0}])
    cursor = op.create_table(
        "event_cursor",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=False),
        sa.Column("sent_seq", _BIG, nullable=False),
        sa.Column("sender", sa.String(40), nullable=False),
        sa.Column("until", _TIME),
    )
    op.bulk_insert(cursor, [{"id": 1, "sent_seq": 0, "sender": ""}])


def _terms() -> None:
    op.create_table(
        "subject_terms",
        sa.Column("subject", sa.String(40), primary_key=True),
        sa.Column("limits", sa.JSON(), nullable=False),
        sa.Column("models", sa.JSON(), nullable=False),
        sa.Column("voices", sa.JSON(), nullable=False),
        sa.Column("weight", sa.Double(), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("max_slots", sa.Integer(), nullable=False),
        sa.Column("max_share", sa.Double(), nullable=False),
        sa.Column("is_set", sa.Boolean(), nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.Column("version", _BIG, nullable=False),
    )
    op.create_index("ix_subject_terms_version", "subject_terms", ["version"])


def _prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("model", sa.String(255), nullable=False),
        sa.Column("kind", sa.String(63), nullable=False),
        sa.Column("micros_per_million", _BIG, nullable=False),
        sa.Column("from_at", _TIME, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("version", _BIG, nullable=False),
    )
    op.create_index("prices_by_time", "prices", ["model", "kind", "from_at"], unique=True)
    op.create_index("ix_prices_version", "prices", ["version"])
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(_SQLITE_APPEND_ONLY.format(verb=verb))
    else:
        for statement in _POSTGRESQL_APPEND_ONLY:
            op.execute(statement)


def _usage() -> None:
    op.create_table(
        "usage_records",
        sa.Column("turn_id", sa.String(255), primary_key=True),
        sa.Column("seq", _BIG, nullable=False, unique=True),
        *(
            sa.Column(name, sa.String(255), nullable=False)
            for name in ("organisation_id", "project_id", "tenant", "key_id", "model", "kind")
        ),
        sa.Column("began_at", _TIME, nullable=False),
        sa.Column("ended_at", _TIME, nullable=False),
        sa.Column("outcome", sa.String(255), nullable=False),
        sa.Column("limit_kind", sa.String(255), nullable=False),
        *(sa.Column(name, _BIG, nullable=False) for name in _AMOUNTS),
        sa.Column("attempts", _BIG, nullable=False),
        sa.Column("price_ids", sa.JSON(), nullable=False),
        sa.Column("gateway", sa.String(255), nullable=False),
    )
    op.create_index("ix_usage_records_ended_at", "usage_records", ["ended_at"])
    op.create_table(
        "usage_sums",
        sa.Column("day", sa.Date(), primary_key=True),
        *(
            sa.Column(name, sa.String(255), primary_key=True)
            for name in ("organisation_id", "project_id", "tenant", "key_id", "model")
        ),
        sa.Column("requests", _BIG, nullable=False),
        *(sa.Column(name, _BIG, nullable=False) for name in _AMOUNTS),
    )
    for name in ("organisation", "project", "key"):
        op.create_index(f"usage_sums_by_{name}", "usage_sums", [f"{name}_id", "day"])
    op.create_table(
        "usage_rejected",
        sa.Column("id", _BIG, primary_key=True, autoincrement=True),
        sa.Column("at", _TIME, nullable=False),
        sa.Column("reason", sa.String(255), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
    )


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: going back would drop every usage record")
