"""uvicorn inside this process. ServiceHost handles the signals."""

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
    """Return uvicorn's protocol with a limit on headers: it answers 431 and closes the connection."""

    class BoundedProtocol(HttpToolsProtocol):
        _header_bytes = 0
        _in_headers = True

        def data_received(self, data: bytes) -> None:
            # Feed the parser at most as many bytes as the headers may still take: it starts a request as soon as its
            # headers are complete, however much came at once.
            while data and not self.transport.is_closing():
                if self._in_headers and self._header_bytes >= max_header_bytes:
                    self._refuse()
                    return
                room = max_header_bytes - self._header_bytes if self._in_headers else len(data)
                chunk, data = data[:room], data[room:]
                if self._in_headers:
                    self._header_bytes += len(chunk)
                super().data_received(chunk)

        def _refuse(self) -> None:
            before = self.cycle  # None at first, despite its type
            if not before or before.response_complete:  # else the 431 would be inside another response
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
    """Serves until `close`, once `serve_http` is awaited."""

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
                # Longer than load balancers keep an idle connection, so that they never use a closed one.
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
        """Accept no more connections and close idle ones. `serve_http` then returns."""
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
