"""Parses the URL of the database."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_POSTGRESQL = ("postgresql", "postgres", "postgresql+asyncpg")
_SQLITE = ("sqlite", "sqlite+aiosqlite")


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    url: URL = field(repr=False)
    """With the driver that is used. It may hold a password."""
    is_sqlite: bool

    @property
    def place(self) -> str:
        """The URL without what is secret in it, for messages."""
        return self.url.render_as_string(hide_password=True)


def parse_database_url(text: str, password: str = "") -> DatabaseUrl:
    """Parse `postgresql://…` or `sqlite:///file`; "" = SQLite in the user's data folder.

    `?sslmode=` of PostgreSQL is libpq's: disable, prefer, require, verify-ca, verify-full. Raise ValueError, whose
    message does not hold the URL: it may hold a password.
    """
    try:
        url = make_url(text) if text else URL.create("sqlite", database=str(_default_file()))
    except ArgumentError:
        raise ValueError("it is not a URL; write postgresql://user@host/database or sqlite:///folder/file.db") from None
    if url.drivername in _SQLITE:
        if not url.database or url.database == ":memory:":
            raise ValueError("name a file: sqlite:///folder/file.db")
        if password:
            raise ValueError("SQLite has no password; leave ANTIPHON_DATABASE_PASSWORD out")
        return DatabaseUrl(url.set(drivername="sqlite+aiosqlite"), is_sqlite=True)
    if url.drivername not in _POSTGRESQL:
        raise ValueError("its scheme must be postgresql or sqlite")
    if password and url.password:
        raise ValueError("it holds a password, and so does ANTIPHON_DATABASE_PASSWORD; set one of them")
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    url = url.set(drivername="postgresql+asyncpg", query=query, password=password or url.password)
    return DatabaseUrl(url, is_sqlite=False)


def _default_file() -> Path:
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    return Path(data) / "antiphon/control.db"
