"""Brings the database's schema to this version. Several processes may try at the same time: one does it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from services.control.store.database import Database

_LOOK_S = 0.1
LOCK = 0x616E7469  # "anti": PostgreSQL's advisory locks are numbers


class SchemaError(Exception):
    """The database's schema is not this version's. The message says what to do."""


async def migrate(database: Database) -> None:
    """Bring the schema to this version, in one transaction. A lock holds others off until it is over.

    Raise SchemaError where the schema is newer.
    """
    async with database.writing() as connection:  # SQLite: BEGIN IMMEDIATE is the lock
        # Not pg_advisory_xact_lock: another's migration may take longer than a statement of ours may wait.
        while not database.is_sqlite:
            if await connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": LOCK}):
                break
            await asyncio.sleep(_LOOK_S)
        await connection.run_sync(_upgrade)


async def check_schema(database: Database) -> None:
    """Raise SchemaError where the schema is not this version's."""
    async with database.reading() as connection:
        current = await connection.run_sync(_revision)
    if current != _head():
        raise SchemaError(
            f"the schema is {current or 'empty'}, and this version needs {_head()}: "
            "run python -m services.control migrate"
        )


def _upgrade(connection: Connection) -> None:
    current, known = _revision(connection), {script.revision for script in _scripts().walk_revisions()}
    if current is not None and current not in known:
        raise SchemaError(f"the schema is {current}, which a newer version made: run that version")
    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _head() -> str | None:
    return _scripts().get_current_head()


def _scripts() -> ScriptDirectory:
    return ScriptDirectory.from_config(_config())


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations").replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
