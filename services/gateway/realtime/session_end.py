"""Why a session ends."""

from __future__ import annotations

from enum import Enum


class SessionEnd(Enum):
    """Why the server ends a session."""

    REQUESTED = "requested"
    """The client asked for it."""
    IDLE = "idle"
    EXPIRED = "expired"
    DRAINED = "drained"
    SLOW_CLIENT = "slow_client"
    REVOKED = "revoked"
    TAKEN_OVER = "taken_over"
    """It goes on with another connection."""
    FAULT = "fault"
