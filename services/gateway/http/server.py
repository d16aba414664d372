"""The gateway's HTTP server: uvicorn with bounds on its connections."""

from __future__ import annotations

from starlette.types import ASGIApp

from services.common.http import server
from services.gateway.http.connections import Connections
from services.gateway.http.web_sockets import WebSocketConnection
from services.gateway.limits import ConnectionLimits


class HttpServer(server.HttpServer):
    def __init__(self, app: ASGIApp, host: str, port: int, limits: ConnectionLimits) -> None:
        self._connections = Connections(limits)
        super().__init__(
            app,
            host,
            port,
            idle_timeout_s=limits.idle_timeout_s,
            protocol=self._connections.protocol(),
            web_sockets=server.WebSockets(WebSocketConnection, limits.max_event_bytes),
        )

    def end_connections_after_response(self) -> None:
        """Close each connection after its next response, which tells the client so. Accept new ones as before."""
        self._connections.ending = True

    def close_idle_connections(self) -> None:
        """Close the connections that wait for a request, and each other one after its response. WebSockets stay: their
        sessions end them."""
        for connection in list(self.server_state.connections):
            if not isinstance(connection, WebSocketConnection):
                connection.shutdown()
