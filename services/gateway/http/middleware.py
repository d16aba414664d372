"""ASGI middleware of every request: its id and metrics, its errors, its key."""

from __future__ import annotations

import logging
import secrets

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.common.errors import INTERNAL, AntiphonError, Fault
from services.gateway import metrics
from services.gateway.auth import ApiKeys
from services.gateway.http.respond import ClientLeft, header, send_error

# Answered without a key: probes have none.
OPEN_PATHS = frozenset({"/health/live", "/health/ready"})

logger = logging.getLogger(__name__)


class RequestIds:
    """Gives each request an id (`scope["state"]["request_id"]`), sends it as x-request-id and counts the response.

    It is the outermost one: it answers every exception of the application in OpenAI's form.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = "req_" + secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", request_id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except ClientLeft:
            pass
        except Exception as error:
            if not isinstance(error, AntiphonError):
                logger.exception("%s failed", request_id)
                error = Fault(INTERNAL)
            if status:
                raise
            await send_error(send_with_id, error)
        finally:
            route = getattr(scope.get("route"), "path", "none")
            metrics.HTTP_REQUESTS.labels(route, str(status or 499)).inc()


class Authentication:
    """Passes requests with a valid key on. Their tenant is `scope["state"]["tenant"]`.

    It looks at scope["path"], never at the Host header. WebSockets need a key too.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys) -> None:
        self._app = app
        self._keys = keys

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan" and scope["path"] not in OPEN_PATHS:
            scope.setdefault("state", {})["tenant"] = self._keys.tenant_of(header(scope, b"authorization"))
        await self._app(scope, receive, send)
