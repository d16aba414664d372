"""What gateways must show to the control plane."""

from __future__ import annotations

import hmac
from typing import Any

import grpc.aio

from services.common.errors import Unauthenticated


def check_gateway_token(context: grpc.aio.ServicerContext[Any, Any], token: str) -> None:
    """Raise Unauthenticated where the caller does not show the token."""
    shown = next((value for key, value in context.invocation_metadata() or () if key == "authorization"), "")
    if not hmac.compare_digest(shown if isinstance(shown, bytes) else shown.encode(), f"Bearer {token}".encode()):
        raise Unauthenticated("The gateway's token is missing or wrong: see ANTIPHON_GATEWAY_TOKEN.")
