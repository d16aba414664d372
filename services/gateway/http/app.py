"""The HTTP application: its routes and middleware."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from services.common.errors import NotFound
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.http.chat.endpoint import ChatCompletions
from services.gateway.http.errors import MethodNotAllowed
from services.gateway.http.health import Live, Readiness, Ready
from services.gateway.http.middleware import Authentication, RequestIds
from services.gateway.http.models import ListModels, OneModel
from services.gateway.limits import RequestLimits
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.turns import Turns


def build_app(
    turns: Turns,
    directory: ModelDirectory,
    catalogue: Catalogue,
    readiness: Readiness,
    keys: ApiKeys,
    limits: RequestLimits,
) -> ASGIApp:
    chat = ChatCompletions(turns, directory, catalogue, limits)
    models, model = ListModels(directory), OneModel(directory, catalogue)
    routes: list[Route] = []
    for prefix in ("/v1", "/compatible-mode/v1"):
        routes += [
            Route(f"{prefix}/chat/completions", chat, methods=["POST"]),
            Route(f"{prefix}/models", models, methods=["GET"]),
            Route(f"{prefix}/models/{{id:path}}", model, methods=["GET"]),
        ]
    routes += [
        Route("/health/live", Live(), methods=["GET"]),
        Route("/health/ready", Ready(readiness), methods=["GET"]),
    ]
    return RequestIds(Authentication(_Routes(routes), keys))


class _Routes:
    """Starlette's router, with our errors where there is no route."""

    def __init__(self, routes: list[Route]) -> None:
        # Starlette would build redirects from the Host header.
        self._router = Router(routes, redirect_slashes=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes the router raise instead of answering in plain text
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405:
                raise MethodNotAllowed(f"The method {scope['method']} is not allowed on {scope['path']}.") from None
            raise NotFound(f"Invalid URL ({scope['method']} {scope['path']}).", code="unknown_url") from None
