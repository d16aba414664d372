"""Runs one service process: a gRPC server with health and reflection, a Prometheus endpoint, and a drain.

At SIGTERM or SIGINT: health turns NOT_SERVING → new calls are served for `shutdown_delay_s`, as load balancers have yet
to notice (gateway only) → no new work is taken → running calls finish within `drain_s` → the others are cancelled and
their callers told → the server stops → telemetry is flushed. A second signal ends the waits. Whatever sends SIGKILL (a
pod's terminationGracePeriodSeconds, compose's stop_grace_period, the local supervisor) must wait `shutdown_delay_s`
plus `drain_s` plus `END_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.common.channels import SERVER_OPTIONS, GrpcConnections
from services.common.interceptors import CallInterceptor
from services.common.open_calls import OpenCalls
from services.common.settings import ProcessSettings
from services.common.telemetry.metrics_port import MetricsPort
from services.common.telemetry.tracing import start_tracing

_TELL_S = 1.0
"""How long callers have to receive the error of a call that was cut, or that ends with the service's own failure."""

logger = logging.getLogger(__name__)


class ServiceFailedError(Exception):
    """The service called `fail`: its process must end with status 1."""


def run_main(main: Coroutine[Any, Any, None]) -> None:
    """Run a service's `main`, then exit: with status 1 where it raised ServiceFailedError, also from a TaskGroup."""
    status = 0
    try:
        asyncio.run(main)
    except* ServiceFailedError:
        status = 1
    # Everything is closed. With torch loaded the interpreter's own exit takes seconds of a pod's grace.
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


class ServiceHost:
    """Runs one gRPC service for the life of a process.

        async with ServiceHost(settings, "antiphon.v1.Thinker") as host:
            thinker_pb2_grpc.add_ThinkerServicer_to_server(servicer, host.server)
            host.on_drain(keeper.drain)
            await host.serve()      # until a signal, or host.fail()

    A signal before `serve` ends the process at once. `address` is known once the block is entered, so that a worker
    can publish it. Health is NOT_SERVING until `set_ready(True)`, which `serve` calls unless `ready=False` is given.
    `max_fields` and `connections` bound requests and connections where callers are not trusted. `shutdown_delay_s` is
    how long a signal leaves the service as it is, but for its health.
    """

    def __init__(
        self,
        settings: ProcessSettings,
        service_name: str,
        *,
        max_fields: int | None = None,
        connections: GrpcConnections | None = None,
        shutdown_delay_s: float = 0.0,
    ) -> None:
        self._settings = settings
        self._shutdown_delay_s = shutdown_delay_s
        self._name = service_name
        self.server = grpc.aio.server(
            interceptors=(CallInterceptor(max_fields, OpenCalls() if connections else None),),
            options=tuple((dict(SERVER_OPTIONS) | (connections.options if connections else {})).items()),
        )
        self._health = health.aio.HealthServicer()  # pyright: ignore[reportAttributeAccessIssue]
        self._serving = False
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._failed = False
        self._delays: list[Callable[[], None]] = []
        self._drains: list[Callable[[], Any]] = []
        self._cuts: list[Callable[[], None]] = []
        self._metrics = MetricsPort()
        self._is_ready = False
        self._stack = AsyncExitStack()
        self.port = 0
        self._extra_ports: dict[str, int] = {}
        self._refusing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        provider = start_tracing(self._name.rpartition(".")[2].lower(), self._settings.otlp_endpoint)
        if provider is not None:
            self._stack.callback(provider.shutdown)
        self._metrics.open(self._settings.metrics_host, self._settings.metrics_port)
        self._stack.callback(self._metrics.close)
        wanted = f"{self._settings.grpc_host}:{self._settings.grpc_port}"
        try:
            self.port = self.server.add_insecure_port(wanted)
        except RuntimeError:
            await self._stack.aclose()
            raise SystemExit(f"cannot listen on {wanted} (ANTIPHON_GRPC_HOST, ANTIPHON_GRPC_PORT)") from None
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection((self._name, health.SERVICE_NAME, reflection.SERVICE_NAME), self.server)
        await self.set_ready(False)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.server.stop(0)
        if self._refusing is not None:
            await self._refusing
        await self._stack.aclose()

    @property
    def metrics_port(self) -> int:
        return self._metrics.port

    @property
    def address(self) -> str:
        """The "host:port" where other services reach this one."""
        return f"{self._settings.advertise_host or self._settings.grpc_host}:{self.port}"

    def on_shutdown_delay(self, callback: Callable[[], None]) -> None:
        """Call `callback` when health turns NOT_SERVING at a signal: `shutdown_delay_s` before draining begins."""
        self._delays.append(callback)

    def on_drain(self, callback: Callable[[], Any]) -> None:
        """Call `callback` when draining begins, in the order of registration.

        A coroutine that it returns is awaited within `drain_s`: to stop taking tickets, to wait until idle.
        """
        self._drains.append(callback)

    def on_cut(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the drain is over, also after a second signal.

        It must end running calls with an error. The server then waits a moment, so that callers receive it.
        """
        self._cuts.append(callback)

    def on_scrape(self, callback: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Await `callback` in the event loop before each answer of the metrics port."""
        self._metrics.scrapes.append(callback)

    def tell_when_ready(self, details: Callable[[], dict[str, Any]]) -> None:
        """Serve /health/ready on the metrics port: as gRPC health says, with `details` as JSON where that is SERVING.

        `details` is called in the event loop at each request.
        """
        self._metrics.readiness = lambda: details() if self._is_ready else None

    def announce_port(self, name: str, port: int) -> None:
        """Add a port ("http") to the ready file."""
        self._extra_ports[name] = port

    async def set_ready(self, ready: bool) -> None:
        self._is_ready = ready
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", self._name):
            await self._health.set(name, status)

    def fail(self, reason: str) -> None:
        """End the process with status 1, so that it is started again. Health turns NOT_SERVING first."""
        if not self._failed:
            logger.critical("%s cannot go on: %s", self._name, reason)
        self._failed = True
        self._hurry.set()
        self._stop.set()

    def abort(self, reason: str) -> None:
        """Do as `fail`. While the service still starts, exit at once with status 1."""
        if self._serving:
            self.fail(reason)
            return
        logger.critical("%s cannot start: %s", self._name, reason)
        logging.shutdown()
        os._exit(1)

    def refuse_calls(self) -> None:
        """Send the clients of new calls to other servers: gRPC tells them to connect anew. Running calls continue."""
        self._refusing = asyncio.create_task(self.server.stop(self._settings.drain_s), name="refuse-calls")

    async def start(self) -> None:
        """Start to answer calls. Health stays NOT_SERVING."""
        await self.server.start()

    async def serve(self, *, started: bool = False, ready: bool = True) -> None:
        """Answer calls until SIGTERM, SIGINT or `fail`, then drain. Raise ServiceFailedError after `fail`."""
        self._serving = True
        if not started:
            await self.start()
        if ready:
            await self.become_ready()
        await self._stop.wait()
        await self._drain()
        if self._failed:
            raise ServiceFailedError

    async def become_ready(self) -> None:
        """Turn health to SERVING and write the ready file."""
        # The objects that exist now live for ever. A full collection would visit them all and stop every stream: for
        # 0.4 s with torch and transformers loaded, on two slow cores.
        gc.freeze()
        await self.set_ready(True)
        ports = {"grpc": self.port, "metrics": self.metrics_port, **self._extra_ports}
        logger.info("%s is ready: %s", self._name, ports)
        if self._settings.ready_file is not None:
            temporary = self._settings.ready_file.with_suffix(f".{os.getpid()}")
            temporary.write_text(json.dumps(ports))
            temporary.replace(self._settings.ready_file)

    def _on_signal(self, number: int) -> None:
        if not self._serving:  # a load may take minutes in a thread that cannot be stopped, and has no callers yet
            logger.info("%s ends while it starts", self._name)
            logging.shutdown()
            os._exit(128 + number)
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _drain(self) -> None:
        self._is_ready = False
        await self._health.enter_graceful_shutdown()
        for callback in self._delays:
            callback()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._shutdown_delay_s):
                await self._hurry.wait()
        budget_s = _TELL_S if self._failed else self._settings.drain_s
        logger.info("%s drains for at most %g s", self._name, budget_s)
        work = asyncio.create_task(self._finish(budget_s), name="drain")
        hurry = asyncio.create_task(self._hurry.wait(), name="hurry")
        await asyncio.wait((work, hurry), timeout=budget_s + 1, return_when=asyncio.FIRST_COMPLETED)
        for task in (work, hurry):
            task.cancel()
        await asyncio.gather(work, hurry, return_exceptions=True)
        for cut in self._cuts:
            cut()
        await self.server.stop(_TELL_S if self._cuts or self._failed else 0)

    async def _finish(self, budget_s: float) -> None:
        for callback in self._drains:
            waiting = callback()
            if asyncio.iscoroutine(waiting):
                await waiting
        await self.server.stop(budget_s)
