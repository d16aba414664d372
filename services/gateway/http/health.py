"""/health/live and /health/ready, which need no key."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from services.common.errors import Unavailable
from services.gateway.directory import ModelDirectory
from services.gateway.http.respond import send_json
from services.gateway.turn.catalogue import is_whole
from services.gateway.turn.turns import Turns

_TIMEOUT_S = 2.0


class Readiness:
    """Tells whether a request could be served.

    It can where the gateway is not draining, the queues' store answers, and some model has a live worker for each of
    its stages, or can get one on demand (ANTIPHON_COLD_START_S).
    """

    def __init__(self, directory: ModelDirectory, turns: Turns) -> None:
        self._directory = directory
        self._turns = turns

    async def reason(self) -> str:
        """Return why the gateway is not ready; "" = it is."""
        if self._turns.draining:
            return "draining"
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                models = await self._directory.models()
        except (Unavailable, TimeoutError):
            return "the queues' store does not answer"
        return (
            "" if any(is_whole(model) for model in models.values()) else "no model has live workers for all its stages"
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
