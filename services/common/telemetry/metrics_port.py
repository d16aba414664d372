"""The HTTP port for those who operate a service: Prometheus' metrics, and readiness where the service details it."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Iterable
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import REGISTRY, start_http_server
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector, RestrictedRegistry

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

logger = logging.getLogger(__name__)

READY_PATH = "/health/ready"
_ANSWER_S = 5.0
"""How long a request waits for the event loop. Prometheus waits longer for a scrape."""

Readiness = Callable[[], dict[str, Any] | None]
"""Returns what to tell beside `"status": "ok"`, as JSON; None = the service is not ready."""


class MetricsPort:
    """Serves /metrics, and /health/ready once `readiness` is set. All callbacks run in the event loop.

    The server answers in threads of its own.
    """

    def __init__(self) -> None:
        self.scrapes: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Awaited before each scrape."""
        self.readiness: Readiness | None = None
        self.port = 0
        self._server: WSGIServer | None = None
        self._thread: Thread | None = None

    def open(self, host: str, port: int) -> None:
        """Listen; 0 = any free port, which `port` says then. Raise OSError where the port is taken."""
        loop = asyncio.get_running_loop()
        self._server, self._thread = start_http_server(port, host, _Scraped(self.scrapes, loop))
        self.port = self._server.server_port
        metrics: WSGIApplication = self._server.get_app()  # pyright: ignore[reportAssignmentType]  # set just before

        def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
            if environ["PATH_INFO"] == READY_PATH and self.readiness is not None:
                return _answer_readiness(self.readiness, loop, start_response)
            return metrics(environ, start_response)

        self._server.set_app(answer)

    def close(self) -> None:
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()


class _Scraped(Collector):
    """All metrics of this process. Runs the scrapes' callbacks first."""

    def __init__(
        self, scrapes: Iterable[Callable[[], Coroutine[Any, Any, None]]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._scrapes = scrapes
        self._loop = loop

    def collect(self) -> Iterable[Metric]:
        self._refresh()
        return REGISTRY.collect()

    def restricted_registry(self, names: Iterable[str]) -> RestrictedRegistry:
        """Return some of the metrics, for a scrape with `name[]`."""
        self._refresh()
        return REGISTRY.restricted_registry(names)

    def _refresh(self) -> None:
        for scrape in self._scrapes:
            refreshing = scrape()
            try:
                asyncio.run_coroutine_threadsafe(refreshing, self._loop).result(_ANSWER_S)
            except Exception:
                if self._loop.is_closed():
                    refreshing.close()
                logger.warning("metrics are shown as they were", exc_info=True)


def _answer_readiness(
    readiness: Readiness, loop: asyncio.AbstractEventLoop, start_response: StartResponse
) -> list[bytes]:
    async def ask() -> dict[str, Any] | None:
        return readiness()

    asking = ask()
    try:
        details = asyncio.run_coroutine_threadsafe(asking, loop).result(_ANSWER_S)
    except Exception:
        if loop.is_closed():
            asking.close()
        logger.warning("readiness is not known", exc_info=True)
        details = None
    status = "503 Service Unavailable" if details is None else "200 OK"
    answer = {"status": "unavailable"} if details is None else {"status": "ok"} | details
    start_response(status, [("Content-Type", "application/json")])
    return [json.dumps(answer).encode() + b"\n"]
