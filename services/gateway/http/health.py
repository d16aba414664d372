"""/health/live, /health, which is the same, and /health/ready. They need no key."""

from __future__ import annotations

import asyncio
from typing import Literal

from starlette.types import Receive, Scope, Send

from services.common.errors import Unavailable
from services.common.http.respond import send_json
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.http.reply import Reply
from services.gateway.turn.turns import Turns

_TIMEOUT_S = 2.0


class Healthy(Reply):
    status: Literal["ok"]


class NotReady(Reply):
    status: Literal["unavailable"]
    reason: str


class Readiness:
    """Tells whether a request could be served.

    It can where the gateway is not draining, the queues' store answers, and some model has a live worker for each of
    its stages, gets one on demand (ANTIPHON_COLD_START_S), or expects the next one (lost_stages.py). With a control
    plane it must have received the keys.
    """

    def __init__(self, directory: ModelDirectory, turns: Turns, keys: ApiKeys) -> None:
        self._keys = keys
        self._directory = directory
        self._turns = turns
        self.leaving = False
        """Set before a drain begins, so that load balancers notice first."""

    async def reason(self) -> str:
        """Return why the gateway is not ready; "" = it is."""
        if self.leaving or self._turns.draining:
            return "draining"
        if not self._keys.can_be_checked:
            return "the keys have not come from the control plane, or are too old"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                models = await self._directory.fresh_models()
        except (Unavailable, TimeoutError):
            return "the queues' store does not answer"
        return (
            "" if any(model.is_whole for model in models.values()) else "no model has live workers for all its stages"
        )


class Live:
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send_json(send, 200, {"status": "ok"})


class Ready:
    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = await self._readiness.reason()
        if reason:
            await send_json(send, 503, {"status": "unavailable", "reason": reason}, {"retry-after": "1"})
        else:
            await send_json(send, 200, {"status": "ok"})
