"""Ids of rows. They sort by the time of their creation, and so are cursors of pages."""

from __future__ import annotations

import secrets
import time

ORGANISATION = "org"
PROJECT = "proj"
API_KEY = "key"
ADMIN_KEY = "adm"
PRICE = "price"
FILE = "file"
BATCH = "batch"


def new_id(kind: str) -> str:
    """Return `kind`, 48 bits of the time in milliseconds and 80 random bits: "proj_0199…"."""
    return f"{kind}_{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
