"""Why a session ends."""

from __future__ import annotations

from enum import Enum

from services.common.errors import EXPIRED_API_KEY, AntiphonError


class SessionEnd(Enum):
    """Why the server ends a session."""

    REQUESTED = "requested"
    """The client asked for it."""
    IDLE = "idle"
    EXPIRED = "expired"
    DRAINED = "drained"
    SLOW_CLIENT = "slow_client"
    REVOKED = "revoked"
    KEY_EXPIRED = "key_expired"
    """Noticed as it was to begin a turn."""
    TAKEN_OVER = "taken_over"
    """It goes on with another connection."""
    FAULT = "fault"


def end_of_key(error: AntiphonError | None) -> SessionEnd:
    """Return why a session ends whose key holds no more. `error`: that of the turn that it refused; None = there was
    none."""
    return SessionEnd.KEY_EXPIRED if error is not None and error.code == EXPIRED_API_KEY else SessionEnd.REVOKED
