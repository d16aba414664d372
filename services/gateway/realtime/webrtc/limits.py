"""What calls may take, and the servers that help them through networks."""

from __future__ import annotations

from dataclasses import dataclass, field

from services.common.addresses import Network


@dataclass(frozen=True, slots=True)
class WebRtcLimits:
    max_calls: int = 20
    # How long a client may take to connect after the answer.
    connect_s: float = 15.0
    # Of clients' candidates that are tried though they are not public.
    networks: tuple[Network, ...] = ()


@dataclass(frozen=True, slots=True)
class IceServers:
    """Each as host and port; None = there is none."""

    stun: tuple[str, int] | None = None
    turn: tuple[str, int] | None = None
    turn_username: str = ""
    turn_password: str = field(default="", repr=False)
