"""Requests that have neither a turn nor a session: uploads, downloads, lists. Those of a revoked key end at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from services.gateway.turn.intent import Principal
from services.gateway.turn.turns import revoked_key


class KeyedRequests:
    """Those under way. `has_key`: whether a principal's key is still one."""

    def __init__(self, has_key: Callable[[Principal], bool]) -> None:
        self._has_key = has_key
        self._open: dict[asyncio.Timeout, Principal] = {}

    @asynccontextmanager
    async def ending_with(self, principal: Principal) -> AsyncGenerator[None]:
        """Raise Unauthenticated inside the block as soon as the key is revoked."""
        end = asyncio.timeout(None)
        try:
            async with end:
                self._open[end] = principal
                try:
                    yield
                finally:
                    self._open.pop(end, None)
        except TimeoutError:
            if end.expired():
                raise revoked_key() from None
            raise

    def end_revoked(self) -> None:
        """End the requests of keys that are no more."""
        now_s = asyncio.get_running_loop().time()
        for end in [end for end, principal in self._open.items() if not self._has_key(principal)]:
            del self._open[end]  # one that ends already can't be told again
            end.reschedule(now_s)


class EndsWithKey:
    """Passes requests on to an application, until their key is revoked."""

    def __init__(self, requests: KeyedRequests, app: ASGIApp) -> None:
        self._requests = requests
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        principal: Principal | None = scope["state"].get("principal")  # none on open paths
        if principal is None or not principal.key_id:  # keys of tables count as they did when the request came
            await self._app(scope, receive, send)
            return
        async with self._requests.ending_with(principal):
            await self._app(scope, receive, send)
