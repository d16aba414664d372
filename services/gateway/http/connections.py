"""uvicorn's HTTP protocol with bounds on what a connection may take before a request of it has had a valid key.

A connection may be idle for a time, before its first request and between two. Once a byte of a request is there, its
headers must be complete in time. What is left of a body after the response is read for a moment, so that the client can
read the response, and then the connection is closed. Bodies of requests with a key are bounded where they are read.

Connections that never had a request with a valid key are limited in number, and must read their responses. One too many
closes the oldest of them that waits for a request, or for the rest of one: a client sends its key, or an upload's
policy, right after it has connected, and so is never the oldest for long.

A request that comes behind another one waits as the bytes that came, until that one is answered: uvicorn would make
thousands of requests of a single read, and read on after each answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from services.gateway import metrics
from services.gateway.http.reads import BoundedReads, ReadBuffer
from services.gateway.limits import READ_BYTES, ConnectionLimits

# What is left of a body that nobody reads must arrive within this time.
UNREAD_BODY_S = 5.0
# A client without a valid key must have read what is in the way of its next response within this time.
UNREAD_RESPONSE_S = 15.0
# Of a body without a length, so much goes to the parser at a time: requests may come right behind its end.
_PIECE_BYTES = 4096
_END_OF_HEADERS = b"\r\n\r\n"

_HEADERS_TOO_LARGE = (431, "Request Header Fields Too Large", "The headers of the request are too large.")
_HEADERS_TOO_SLOW = (408, "Request Timeout", "The headers of the request did not arrive in time.")


class Connections:
    """Those that had no request with a valid key yet, the oldest first. `ending`: each response is its connection's
    last one."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.ending = False
        self._unauthenticated: dict[_Connection, None] = {}

    def protocol(self) -> Callable[..., asyncio.BaseProtocol]:
        """Return what uvicorn makes the protocol of each connection with."""
        buffer = ReadBuffer()

        class Connection(_Connection):
            of = self

        return lambda *args, **kwargs: BoundedReads(Connection(*args, **kwargs), buffer)

    def opened(self, connection: _Connection) -> None:
        """Count a new connection. Where it is one too many, close the oldest that is owing, as the new one is."""
        self._unauthenticated[connection] = None
        if len(self._unauthenticated) > self.limits.max_unauthenticated:
            next(one for one in self._unauthenticated if one.is_owing).close("too_many")
        self._show()

    def is_stranger(self, connection: _Connection) -> bool:
        """Whether the connection has had no valid key yet."""
        return connection in self._unauthenticated

    def discard(self, connection: _Connection) -> None:
        """Count the connection no more: it has had a valid key, or it is closed."""
        if connection in self._unauthenticated:
            del self._unauthenticated[connection]
            self._show()

    def _show(self) -> None:
        metrics.UNAUTHENTICATED_CONNECTIONS.set(len(self._unauthenticated))


class _Connection(HttpToolsProtocol):
    """Tells the application by the scope's `state["authenticated"]`, a function to call after a key was found valid."""

    of: Connections

    _header_bytes = 0
    _in_headers = True
    # What is left of the body; None = it has no length.
    _body_bytes: int | None = None
    # What came behind a request that is not answered yet.
    _behind = b""
    # What the connection must do next has this time.
    _timer: asyncio.TimerHandle | None = None
    _awaits_headers = False
    # A stranger that does not read its responses has this time.
    _reading: asyncio.TimerHandle | None = None
    _is_web_socket = False

    @property
    def is_idle(self) -> bool:
        """Whether no response is due."""
        before = self.cycle  # None at first, despite its type
        return not before or before.response_complete

    @property
    def is_owing(self) -> bool:
        """Whether the client is to send something: a request, or the rest of its body."""
        return self.is_idle or not self._in_headers

    def close(self, reason: str) -> None:
        metrics.CONNECTIONS_CLOSED.labels(reason).inc()
        if self.of.is_stranger(self) and self.transport.get_write_buffer_size():
            self.transport.abort()  # it does not read, and would stay open without being counted
        else:
            self.transport.close()
        self.of.discard(self)

    # Of asyncio

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self._wait(self.of.limits.idle_timeout_s, "idle")
        self.of.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._reading is not None:
            self._reading.cancel()
        self.of.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        # Feed the parser one request, and at most as many bytes as its headers may still take: it starts a request as
        # soon as its headers are complete, however much came at once.
        most = self.of.limits.max_header_bytes
        data = self._behind + data
        self._behind = b""
        at = 0
        while at < len(data) and not self.transport.is_closing() and not self._is_web_socket:
            if self._in_headers and not self.is_idle:
                self._behind = data[at:]
                if len(self._behind) >= READ_BYTES:  # else reading goes on, which shows whether the client leaves
                    self.flow.pause_reading()
                return
            if self._in_headers and self._header_bytes >= most:
                self._refuse(*_HEADERS_TOO_LARGE, reason="headers_too_large")
                return
            chunk = data[at : at + self._next_bytes(data, at)]
            at += len(chunk)
            if self._in_headers:
                self._header_bytes += len(chunk)
                self._wait_for_headers()
            super().data_received(chunk)

    def _next_bytes(self, data: bytes, at: int) -> int:
        """Return how many bytes to parse at once: as far as one request may go."""
        if not self._in_headers:
            return self._body_bytes or _PIECE_BYTES
        end = data.find(_END_OF_HEADERS, at)
        head_bytes = end + len(_END_OF_HEADERS) - at if end >= 0 else len(data) - at
        return min(head_bytes, _PIECE_BYTES, self.of.limits.max_header_bytes - self._header_bytes)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self.of.is_stranger(self):
            self._reading = self.loop.call_later(UNREAD_RESPONSE_S, self._on_unread)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None

    # Of uvicorn

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._wait_for_headers()  # of a request that came right behind another
        self.scope["state"]["authenticated"] = self._authenticated  # pyright: ignore[reportTypedDictNotRequiredAccess]

    def on_headers_complete(self) -> None:
        self._in_headers = False
        self._header_bytes = 0
        length = next((value for name, value in self.headers if name == b"content-length"), b"")
        self._body_bytes = int(length) if length.isdigit() else None
        self._stop_waiting()
        super().on_headers_complete()
        if self.of.ending and self.cycle:
            self.cycle.keep_alive = False

    def handle_websocket_upgrade(self) -> None:
        """Leave the connection to the WebSocket's protocol. It is answered at once: with a valid key it is open then,
        and else closed. So it counts no more here. What a client sent before the answer is dropped."""
        self._is_web_socket = True
        self._stop_waiting()
        self.of.discard(self)
        super().handle_websocket_upgrade()

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        if self._body_bytes is not None:
            self._body_bytes -= len(body)
        if not self.is_idle:  # uvicorn reads on when it is asked for more
            self.flow.pause_reading()

    def on_message_complete(self) -> None:
        self._in_headers = True
        super().on_message_complete()
        if self.is_idle:  # the response came before the end of the body
            self._wait(self.of.limits.idle_timeout_s, "idle")

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.is_idle and not self._in_headers:
            self._wait(UNREAD_BODY_S, "unread_body")
        if self._behind:
            self.data_received(b"")

    def timeout_keep_alive_handler(self) -> None:
        if not self.transport.is_closing():
            self.close("idle")

    def _on_unread(self) -> None:
        self._reading = None
        if self.of.is_stranger(self):
            metrics.CONNECTIONS_CLOSED.labels("unread_response").inc()
            self.transport.abort()

    def _authenticated(self) -> None:
        self.of.discard(self)

    def _wait_for_headers(self) -> None:
        if not self._awaits_headers:
            self._wait(self.of.limits.header_timeout_s, "slow_headers")
            self._awaits_headers = True

    def _wait(self, timeout_s: float, reason: str) -> None:
        self._stop_waiting()
        self._timer = self.loop.call_later(timeout_s, self._on_timeout, reason)

    def _stop_waiting(self) -> None:
        self._awaits_headers = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self, reason: str) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self.is_idle:  # a second request that is incomplete must not end the answer to the first
            self.cycle.keep_alive = False
        elif reason == "slow_headers":
            self._refuse(*_HEADERS_TOO_SLOW, reason)
        else:
            self.close(reason)

    def _refuse(self, status: int, phrase: str, message: str, reason: str) -> None:
        """Answer for a request whose headers are incomplete, and close the connection."""
        if self.is_idle:  # else the answer would be inside another response
            body = (
                f'{{"error":{{"message":"{message}","type":"invalid_request_error","param":null,"code":"{reason}"}}}}'
            )
            self.transport.write(
                f"HTTP/1.1 {status} {phrase}\r\ncontent-type: application/json\r\nconnection: close\r\n"
                f"content-length: {len(body)}\r\n\r\n{body}".encode()
            )
        metrics.CONNECTIONS_CLOSED.labels(reason).inc()
        self.transport.close()
        self.of.discard(self)
