"""Starlette's router, with the project's errors."""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Scope, Send

from services.common.errors import AntiphonError, NotFound
from services.common.http.errors import MethodNotAllowed


def unknown_url(method: str, path: str) -> NotFound:
    return NotFound(f"Invalid URL ({method} {path}).", code="unknown_url")


class Routes:
    """Starlette's router, with our errors where there is no route: `no_such_url(method, path)`.

    `beside_ids`: paths that only look like one with an id in it. A method that such a path does not take is told as a
    URL that is not there.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        no_such_url: Callable[[str, str], AntiphonError] = unknown_url,
        *,
        beside_ids: Container[str] = (),
    ) -> None:
        self._no_such_url = no_such_url
        self._beside_ids = beside_ids
        # Starlette would build redirects from the Host header.
        self._router = Router(routes, redirect_slashes=False, default=self._not_found)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = self  # makes the router raise instead of answering in plain text
        try:
            await self._router(scope, receive, send)
        except HTTPException as error:
            if error.status_code == 405 and scope["path"] not in self._beside_ids:
                raise MethodNotAllowed(scope["method"], scope["path"], self._methods(scope)) from None
            raise self._no_such_url(scope["method"], scope["path"]) from None

    def _methods(self, scope: Scope) -> list[str]:
        """Return the methods that routes of the path take."""
        routes = [route for route in self._router.routes if isinstance(route, Route)]
        matching = [route for route in routes if route.matches(scope)[0] is Match.PARTIAL]
        return sorted({method for route in matching for method in route.methods or ()})

    async def _not_found(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise self._no_such_url(scope.get("method", "GET"), scope["path"])
