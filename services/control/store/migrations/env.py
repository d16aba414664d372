"""Alembic runs this within the connection and transaction that `migrate` opened."""

from __future__ import annotations

from alembic import context

from services.control.store.models import Base

if __name__ == "env_py":  # as Alembic loads it
    context.configure(connection=context.config.attributes["connection"], target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
