"""uvicorn's WebSocket protocol with bounds on a client that does not read.

What is for such a client fills the transport's buffer, and then `send` waits. Whoever sends bounds that wait and calls
`scope["state"]["end_unread"]`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

# After its last message a connection has this time, then it is cut. Longer than uvicorn's own wait for the client's
# close frame.
CLOSE_GRACE_S = 15.0

# uvicorn logs each connection with its query, which clients may put anything into.
logger = logging.getLogger(__name__)
logger.setLevel(logging.WARNING)


class WebSocketConnection(WebSocketsSansIOProtocol):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.logger = logger

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.app_state = {**self.app_state, "end_unread": self.end_unread}

    def pause_writing(self) -> None:
        super().pause_writing()
        self.transport.pause_reading()  # else the answers to pings would grow without bound

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.read_paused:
            self.transport.resume_reading()

    async def run_asgi(self) -> None:
        try:
            await super().run_asgi()
        finally:
            if not self.disconnected:
                self.loop.call_later(CLOSE_GRACE_S, self.transport.abort)

    def end_unread(self, code: int, reason: str) -> None:
        """Put a close frame behind all that the client did not read, and take nothing more for it.

        What it still sends is read and dropped: the kernel would reset a connection with unread bytes, and the client
        would not learn why.
        """
        if self.close_sent or self.transport.is_closing():
            return
        self.conn.send_close(code, reason)
        self.transport.write(b"".join(self.conn.data_to_send()))
        self.close_sent = True
        self.transport.resume_reading()
        self.close_timer = self.loop.call_later(self.close_timeout, self.transport.close)
