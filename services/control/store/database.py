"""The database: PostgreSQL, or SQLite on one machine."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Self

import asyncpg
from sqlalchemy import Connection, event, select
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession, create_async_engine

from services.common.errors import Unavailable
from services.control.metrics import DATABASE_ERRORS
from services.control.store.database_url import DatabaseUrl
from services.control.store.models import TenantVersion

_WAIT_S = 5.0
"""How long a request waits for a connection, a lock or the server."""
_IMMEDIATE = "antiphon_immediate"
_AWAY = frozenset({"40001", "40P01", "53300", "55P03", "57014", "57P01", "57P02", "57P03"})
"""PostgreSQL's codes for what a retry may find better: a lock held too long, a server that starts or stops."""


class Database:
    """Sessions of one database. `read` may run at any time; `write` runs one at a time, over all replicas."""

    def __init__(self, url: DatabaseUrl) -> None:
        self.is_sqlite = url.is_sqlite
        self._engine = _sqlite(url) if url.is_sqlite else _postgresql(url)
        # What one transaction reads belongs together. SQLite's do so anyhow.
        self._reading = self._engine.execution_options(
            **({} if url.is_sqlite else {"isolation_level": "REPEATABLE READ"})
        )
        # SQLite: a transaction that begins to write after it read fails where another wrote meanwhile.
        self._writing = self._engine.execution_options(**{_IMMEDIATE: True})
        self.changed = asyncio.Event()
        """Set after each write of this process to what gateways follow."""
        self.records_added = asyncio.Event()
        """Set after each write of usage records by this process."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction for reading. Raise Unavailable where the database is away."""
        async with _known_errors(), self._reading.begin() as connection:
            yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncGenerator[AsyncConnection]:
        """Open a transaction for writing, which commits at the end of the block. Raise Unavailable."""
        async with _known_errors(), self._writing.begin() as connection:
            yield connection

    @asynccontextmanager
    async def read(self) -> AsyncGenerator[AsyncSession]:
        """Open a session for reading. Raise Unavailable where the database is away."""
        async with self.reading() as connection, AsyncSession(connection, expire_on_commit=False) as session:
            yield session

    @asynccontextmanager
    async def change(self) -> AsyncGenerator[AsyncSession]:
        """Open a session for writing, which commits at the end of the block: for rows that gateways don't follow.
        Raise Unavailable."""
        async with self.writing() as connection, AsyncSession(connection, expire_on_commit=False) as session:
            yield session
            await session.flush()

    @asynccontextmanager
    async def write(self) -> AsyncGenerator[Write]:
        """Open a session that holds the lock of all writers and commits at the end of the block. Raise Unavailable."""
        async with self.writing() as connection, AsyncSession(connection, expire_on_commit=False) as session:
            row = (await session.scalars(select(TenantVersion).with_for_update())).one()
            yield Write(session, row)
            await session.flush()
        self.changed.set()


class Write:
    """One write. `next_version` gives the version that all changes of keys in this transaction have."""

    def __init__(self, session: AsyncSession, row: TenantVersion) -> None:
        self.session = session
        self._row = row
        self._version: int | None = None

    def renew_epoch(self) -> None:
        """Let every gateway begin anew, with a snapshot."""
        self._row.epoch = secrets.token_hex(16)

    def next_version(self) -> int:
        if self._version is None:
            self._version = self._row.version = self._row.version + 1
        return self._version


@asynccontextmanager
async def _known_errors() -> AsyncGenerator[None]:
    """Raise Unavailable for the errors that mean that the database is away or busy."""
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, OSError, TimeoutError) as error:
        raise _away() from error
    except asyncpg.PostgresError as error:  # SQLAlchemy leaves what fails as it connects as it is
        raise _away() from error
    except DBAPIError as error:
        if not (error.connection_invalidated or getattr(error.orig, "sqlstate", "") in _AWAY):
            raise
        raise _away() from error


def _away() -> Unavailable:
    DATABASE_ERRORS.inc()
    return Unavailable("The database is away at the moment.", code="database_unavailable", retry_after_s=2)


def _postgresql(url: DatabaseUrl) -> AsyncEngine:
    return create_async_engine(
        url.url,
        pool_pre_ping=True,
        pool_size=10,
        max_overflow=0,
        pool_timeout=_WAIT_S,
        hide_parameters=True,
        connect_args={
            "timeout": _WAIT_S,
            "command_timeout": 4 * _WAIT_S,
            "server_settings": {"application_name": "antiphon-control", "lock_timeout": f"{round(_WAIT_S * 1000)}"},
        },
    )


def _sqlite(url: DatabaseUrl) -> AsyncEngine:
    Path(url.url.database or "").parent.mkdir(parents=True, exist_ok=True)
    engine = create_async_engine(url.url, hide_parameters=True, connect_args={"timeout": _WAIT_S})

    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # else Python's driver begins and commits transactions on its own
        cursor = connection.cursor()
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    def on_begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get(_IMMEDIATE, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    event.listen(engine.sync_engine, "connect", on_connect)
    event.listen(engine.sync_engine, "begin", on_begin)
    return engine
