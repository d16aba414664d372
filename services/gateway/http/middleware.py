"""ASGI middleware of every request: its origin, its id and metrics, its errors, its path, its key."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Container, Sequence

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import INTERNAL, AntiphonError, Fault, Forbidden, Unauthenticated, forget_frames
from services.common.http.respond import header, send_error
from services.common.key_scopes import Scope as KeyScope
from services.common.telemetry.logs import set_request_id
from services.gateway import metrics
from services.gateway.auth import ApiKeys
from services.gateway.control.refused_keys import RefusedKeys
from services.gateway.http.dashscope.errors import flat_body, has_flat_errors
from services.gateway.http.respond import ClientLeft
from services.gateway.turn.intent import Principal

# OpenAI's clients for browsers put the key behind this into Sec-WebSocket-Protocol.
KEY_SUBPROTOCOL = "openai-insecure-api-key."

# What a page of another origin may read of a response.
_SHOWN_HEADERS = (
    "location",
    "x-request-id",
    "retry-after",
    "retry-after-ms",
    "x-should-retry",
    "idempotent-replayed",
    *(f"x-ratelimit-{what}-{of}" for what in ("limit", "remaining", "reset") for of in ("requests", "tokens")),
)
_PREFLIGHT_VALID_S = 600

logger = logging.getLogger(__name__)


def open_to_origins(app: ASGIApp, origins: Sequence[str]) -> ASGIApp:
    """Let pages of these origins (`https://app.example.org`, or `*` for all) call `app` from a browser.

    Answers their preflights, which have no key. It must be outside whatever answers errors.
    """
    if not origins:
        return app
    return CORSMiddleware(
        app,
        allow_origins=origins,
        allow_methods=("GET", "POST", "DELETE"),
        allow_headers=("*",),
        expose_headers=_SHOWN_HEADERS,
        max_age=_PREFLIGHT_VALID_S,
    )


class RequestIds:
    """Gives each request an id (`scope["state"]["request_id"]`), sends it as x-request-id and counts the response.

    It answers every exception of the application in OpenAI's form, or, on DashScope's paths, in its.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":
            send = _before_upgrade(send)
        request_id = "req_" + secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        set_request_id(request_id)
        status = 0

        def send_with_id(message: Message) -> Awaitable[None]:
            nonlocal status
            if message["type"] in ("http.response.start", "websocket.accept"):
                status = message.get("status", 101)
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            return send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientLeft:
            pass
        except Exception as error:
            if not isinstance(error, AntiphonError):
                logger.exception("%s failed", request_id)
                forget_frames(error)
                error = Fault(INTERNAL)
            if status:
                raise
            body = flat_body(error, request_id) if has_flat_errors(scope["path"]) else None
            await send_error(send_with_id, error, body=body)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            metrics.HTTP_REQUESTS.labels(route, str(status or 499)).inc()


def _before_upgrade(send: Send) -> Send:
    """Let a WebSocket be refused as an HTTP request is: with a status and a body, and no upgrade."""

    async def send_denial(message: Message) -> None:
        if message["type"].startswith("http.response."):
            message["type"] = "websocket." + message["type"]
        await send(message)

    return send_denial


class TrailingSlashes:
    """Takes a path with slashes at its end for the one without."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            scope["path"] = scope["path"].rstrip("/") or "/"
        await self._app(scope, receive, send)


class Authentication:
    """Passes requests with a valid key on, and those to `open_paths`. Who asks is `scope["state"]["principal"]`.

    It looks at scope["path"], never at the Host header. WebSockets need a key too. Browsers can't give them headers: a
    key may be among the subprotocols. `refused`: what notes the keys that are refused; None = nothing does.
    """

    def __init__(
        self, app: ASGIApp, keys: ApiKeys, open_paths: Container[str], refused: RefusedKeys | None = None
    ) -> None:
        self._app = app
        self._keys = keys
        self._open_paths = open_paths
        self._refused = refused

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] not in self._open_paths:
            state = scope.setdefault("state", {})
            state["principal"] = self._principal_of(scope)
            if "authenticated" in state:
                state["authenticated"]()  # see connections.py
        await self._app(scope, receive, send)

    def _principal_of(self, scope: Scope) -> Principal:
        shown = header(scope, b"authorization") or _key_among_subprotocols(scope)
        try:
            return self._keys.principal_of(shown)
        except Unauthenticated as error:
            if self._refused is not None:
                remote = scope["client"][0] if scope.get("client") else ""
                request_id = str(scope["state"].get("request_id", ""))
                self._refused.note(shown, error, path=scope["path"], remote=remote, request_id=request_id)
            raise


def _key_among_subprotocols(scope: Scope) -> bytes | None:
    """Return what an authorization header would hold."""
    for name in scope.get("subprotocols", ()):
        if name.startswith(KEY_SUBPROTOCOL):
            return b"Bearer " + name.removeprefix(KEY_SUBPROTOCOL).encode()
    return None


class WebSocketOrigins:
    """Passes WebSockets of pages on if the page's origin is allowed: browsers ask the server for no leave to open one.
    Raise Forbidden. Other programs send no origin, or, beside a bearer token, one of the gateway's own host.
    `has_page`: the gateway serves a page itself, which may."""

    def __init__(self, app: ASGIApp, origins: Sequence[str], *, has_page: bool = False) -> None:
        self._app = app
        self._origins = frozenset(origins)
        self._has_page = has_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        origin = header(scope, b"origin") if scope["type"] == "websocket" else None
        if origin is not None and not self._allows(scope, origin.decode("latin-1").lower()):
            raise Forbidden(
                "Pages of this origin may not open a WebSocket here. The operator lists those that may"
                " (ANTIPHON_CORS_ORIGINS).",
                code="origin_not_allowed",
            )
        await self._app(scope, receive, send)

    def _allows(self, scope: Scope, origin: str) -> bool:
        if "*" in self._origins or origin in self._origins:
            return True
        # A bearer token alone says nothing of the origin: a proxy may make one of a browser's cookie.
        if not (self._has_page or _has_bearer(scope)):
            return False
        # The page came from the host that the browser names here, too. Its scheme may be a proxy's.
        host = (header(scope, b"host") or b"").decode("latin-1").lower()
        return bool(host) and origin.partition("://")[2] == host


def _has_bearer(scope: Scope) -> bool:
    return (header(scope, b"authorization") or b"")[:7].lower() == b"bearer "


class Scoped:
    """Passes requests on if their key has the scope. Raise Forbidden."""

    def __init__(self, scope: KeyScope, app: ASGIApp) -> None:
        self._scope = scope
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["principal"].check_scope(self._scope)
        await self._app(scope, receive, send)
