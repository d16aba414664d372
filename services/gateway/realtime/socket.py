"""A session's WebSocket: what all dialects have in common. It carries JSON objects as text."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.types import Message, Receive, Send

from services.common.errors import EXPIRED_API_KEY
from services.gateway.http.idle_timer import IdleTimer
from services.gateway.limits import RealtimeLimits
from services.gateway.realtime.session import Session
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.sessions import OpenSession

# Reason → the WebSocket's close code and what the client reads beside it.
CLOSES: Mapping[SessionEnd, tuple[int, str]] = {
    SessionEnd.REQUESTED: (1000, "close_requested"),
    SessionEnd.IDLE: (1001, "idle_timeout"),
    SessionEnd.EXPIRED: (1001, "session_expired"),
    SessionEnd.DRAINED: (1012, "server_restart"),
    SessionEnd.SLOW_CLIENT: (1008, "slow_client"),
    SessionEnd.REVOKED: (1008, "revoked_api_key"),
    SessionEnd.KEY_EXPIRED: (1008, EXPIRED_API_KEY),
    SessionEnd.TAKEN_OVER: (1001, "session_taken_over"),
    SessionEnd.FAULT: (1011, "internal_error"),
}
LAST_WORDS: Mapping[SessionEnd, str] = {
    SessionEnd.IDLE: "The session was idle for too long.",
    SessionEnd.EXPIRED: "The session has reached its longest time. Open another one.",
    SessionEnd.TAKEN_OVER: "The session goes on with another connection.",
}

logger = logging.getLogger(__name__)


class SessionSocket:
    """Hands client events to its dialect, and sends events. `end_unread(code, reason)` closes a connection whose
    client does not read."""

    def __init__(
        self, receive: Receive, send: Send, limits: RealtimeLimits, end_unread: Callable[[int, str], None]
    ) -> None:
        self._receive = receive
        self._to_client = send
        self._limits = limits
        self._end_unread = end_unread
        self._sending = asyncio.Lock()
        self._is_over = False
        self._session: Session | None = None

    async def accept(self, subprotocol: str | None) -> None:
        await self._receive()  # websocket.connect
        await self._to_client({"type": "websocket.accept", "subprotocol": subprotocol})

    async def receive(self) -> Message:
        """Return the client's next message, or that it has left: websocket.disconnect."""
        return await self._receive()

    async def serve(
        self,
        opened: OpenSession,
        begin: Callable[[], Awaitable[None]],
        handle: Callable[[str | None], Awaitable[None]],
        hear: Callable[[bytes], Awaitable[None]] | None = None,
    ) -> SessionEnd | None:
        """Serve the session to its end, and close it. Return why it ended; None = its client has left.

        `begin` sends what comes first, `handle` does what a client event says, and gets None for a binary one; with
        `hear`, that takes those.
        """
        session = self._session = opened.session
        loop = asyncio.get_running_loop()
        idle = IdleTimer(self._limits.idle_timeout_s, self._on_idle)
        expiry = loop.call_later(session.expires_unix_s - time.time(), session.end, SessionEnd.EXPIRED)
        reading = asyncio.create_task(self._read(session, idle, begin, handle, hear), name=f"read {session.id}")
        try:
            await asyncio.wait((reading, session.ended), return_when=asyncio.FIRST_COMPLETED)
        finally:
            idle.close()
            expiry.cancel()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            await session.close()
            await opened.keep()
        return session.ended.result() if session.ended.done() else None

    async def _read(
        self,
        session: Session,
        idle: IdleTimer,
        begin: Callable[[], Awaitable[None]],
        handle: Callable[[str | None], Awaitable[None]],
        hear: Callable[[bytes], Awaitable[None]] | None,
    ) -> None:
        try:
            await begin()
            while (message := await self._receive())["type"] != "websocket.disconnect":
                idle.touch()
                if hear is not None and (data := message.get("bytes")) is not None:
                    await hear(data)
                else:
                    await handle(message.get("text"))
                session.leaving.check()
                idle.touch()
        except Exception:
            logger.exception("session %s failed", session.id)
            session.end(SessionEnd.FAULT)

    def _on_idle(self) -> None:
        if self._session is not None and not self._session.is_responding:
            self._session.end(SessionEnd.IDLE)

    async def send(self, event: Mapping[str, Any]) -> None:
        """Send an event. Where the client does not take it in time, end the session; then send nothing."""
        text = json.dumps(event, ensure_ascii=False, separators=(",", ":"))
        async with self._sending:
            if self._is_over:
                return
            try:
                async with asyncio.timeout(self._limits.send_timeout_s):
                    await self._to_client({"type": "websocket.send", "text": text})
            except TimeoutError:
                self._is_over = True
                if self._session is not None:
                    self._session.end(SessionEnd.SLOW_CLIENT)
            except OSError:  # the client has left
                self._is_over = True

    async def close(self, end: SessionEnd) -> None:
        """Send nothing more, and close the connection of a session that has ended."""
        await self.close_as(*CLOSES[end], is_unread=end is SessionEnd.SLOW_CLIENT)

    async def close_as(self, code: int, reason: str, *, is_unread: bool = False) -> None:
        """`is_unread`: the client does not read."""
        self._is_over = True
        if is_unread:
            self._end_unread(code, reason)
            return
        try:
            async with asyncio.timeout(self._limits.send_timeout_s):
                await self._to_client({"type": "websocket.close", "code": code, "reason": reason})
        except TimeoutError:
            self._end_unread(code, reason)
        except OSError:
            pass
