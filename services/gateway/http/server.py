"""uvicorn inside this process: it binds, serves and closes when told; signals are the host's."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Generator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = (
    b'{"error":{"message":"The headers of the request are too large.","type":"invalid_request_error",'
    b'"param":null,"code":"headers_too_large"}}'
)


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """uvicorn's parser puts no limit on headers; this one answers 431 and closes."""

    class BoundedProtocol(HttpToolsProtocol):
        _header_bytes = 0
        _in_headers = True

        def data_received(self, data: bytes) -> None:
            # While headers come the parser gets no more at once than they may still take: it answers a request as soon
            # as its headers are complete, however much came in one piece.
            while data and not self.transport.is_closing():
                if self._in_headers and self._header_bytes >= max_header_bytes:
                    self._refuse()
                    return
                room = max_header_bytes - self._header_bytes if self._in_headers else len(data)
                piece, data = data[:room], data[room:]
                if self._in_headers:
                    self._header_bytes += len(piece)
                super().data_received(piece)

        def _refuse(self) -> None:
            before = self.cycle  # None at first, whatever its type says
            if not before or before.response_complete:  # else the refusal would stand inside an answer
                self.transport.write(
                    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                    b"connection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(_TOO_LARGE), _TOO_LARGE)
                )
            self.transport.close()

        def on_headers_complete(self) -> None:
            self._in_headers = False
            self._header_bytes = 0
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            self._in_headers = True
            super().on_message_complete()

    return BoundedProtocol


class HttpServer(uvicorn.Server):
    """`await serve_http()` runs it until `close`."""

    def __init__(self, app: ASGIApp, host: str, port: int, max_header_bytes: int) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=bounded_protocol(max_header_bytes),
                ws="none",
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                # Longer than a load balancer keeps its side, so that it never meets a closed one.
                timeout_keep_alive=75,
                timeout_graceful_shutdown=5,
            )
        )
        self._up = asyncio.Event()
        self._socket = _bind(host, port)

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    async def serve_http(self) -> None:
        await self.serve(sockets=[self._socket])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._up.set()

    async def wait_started(self) -> None:
        await self._up.wait()

    def close(self) -> None:
        """Takes no more connections and ends those that are idle; `serve_http` then returns."""
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.set_inheritable(False)
    except OSError as error:
        bound.close()
        reason = f"cannot listen on {host}:{port} (ANTIPHON_HTTP_HOST, ANTIPHON_HTTP_PORT): {error.strerror}"
        raise SystemExit(reason) from None
    return bound
