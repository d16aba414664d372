"""How speech derailed, in usage records and their sums."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    # With defaults: replicas of the version before go on writing records until they are replaced.
    op.add_column("usage_records", sa.Column("derailment", sa.String(255), nullable=False, server_default=""))
    op.add_column("usage_records", sa.Column("spoken_again", _BIG, nullable=False, server_default="0"))
    op.add_column("usage_sums", sa.Column("derailed_requests", _BIG, nullable=False, server_default="0"))
    op.add_column("usage_sums", sa.Column("spoken_again", _BIG, nullable=False, server_default="0"))


def downgrade() -> None:
    raise NotImplementedError("restore a backup instead: going back would drop what records say of speech")
