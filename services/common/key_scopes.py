"""What an API key may be used for."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    CHAT = "chat"
    SPEECH = "speech"
    TRANSCRIPTION = "transcription"
    REALTIME = "realtime"
    FILES = "files"
    BATCHES = "batches"
    ADMIN_READ = "admin_read"
    """Read the key's own project in the Admin API, and its usage at a gateway."""


ALL_SCOPES = frozenset(Scope)
DEFAULT_SCOPES = ALL_SCOPES - {Scope.ADMIN_READ}
"""Of a key that was made without naming any."""
