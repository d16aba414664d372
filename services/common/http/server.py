"""uvicorn inside this process. ServiceHost handles the signals."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

import uvicorn
from starlette.types import ASGIApp


@dataclass(frozen=True, slots=True)
class WebSockets:
    """uvicorn's class of a WebSocket connection, and the most bytes of a message to the server."""

    protocol: type[asyncio.Protocol]
    max_message_bytes: int


class HttpServer(uvicorn.Server):
    """Serves until `close`, once `serve_http` is awaited. `protocol` makes one for each connection, as uvicorn's own
    classes do. Without `web_sockets` a request to upgrade is answered as if it were none."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        *,
        idle_timeout_s: float,
        protocol: Callable[..., asyncio.BaseProtocol],
        web_sockets: WebSockets | None = None,
    ) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol,  # pyright: ignore[reportArgumentType]  # it is only called
                ws=web_sockets.protocol if web_sockets else "none",
                ws_max_size=web_sockets.max_message_bytes if web_sockets else 0,
                ws_per_message_deflate=False,  # audio gains nothing, and each connection would take 64 KiB
                loop="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                timeout_keep_alive=idle_timeout_s,  # pyright: ignore[reportArgumentType]  # call_later's
                timeout_graceful_shutdown=5,
            )
        )
        self._up = asyncio.Event()
        self._socket = _bind(host, port)

    @property
    def port(self) -> int:
        return self._socket.getsockname()[1]

    async def serve_http(self) -> None:
        try:
            await self.serve(sockets=[self._socket])
        finally:  # cancelled, uvicorn would leave it open
            for listening in getattr(self, "servers", ()):
                listening.close()
            self._socket.close()

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
