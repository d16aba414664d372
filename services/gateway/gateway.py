"""Builds the gateway of a process: queues, clients of the stages, turns, and the HTTP and gRPC servers' handlers."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from services.common.channels import ChannelPool
from services.common.queues import QueueClient, QueueLimits
from services.common.redis_client import connect
from services.gateway import metrics
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.http.app import build_app
from services.gateway.http.health import Readiness
from services.gateway.http.server import HttpServer
from services.gateway.observe import QueueGauges
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import GatewaySettings
from services.gateway.stages.clients import StageClients
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.turns import Turns


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that serves HTTP on `http_port`. `servicer` is to be added to a gRPC server."""

    servicer: GatewayServicer
    http_port: int
    turns: Turns
    gauges: QueueGauges


@asynccontextmanager
async def open_gateway(settings: GatewaySettings) -> AsyncGenerator[Gateway]:
    """Serve HTTP inside the block. Leaving it cancels the turns that still run."""
    async with AsyncExitStack() as stack:
        redis = connect(settings.redis)
        stack.push_async_callback(redis.aclose)
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        queues = QueueClient(redis, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", _limits(settings))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = tasks.create_task(queues.run(), name="queues")
        stack.callback(background.cancel)
        turns = await stack.enter_async_context(Turns(queues, StageClients.over(channels)))
        directory, catalogue = ModelDirectory(queues), Catalogue()
        readiness = Readiness(directory, turns)
        keys = ApiKeys(
            settings.api_key.get_secret_value(), settings.tenant_keys, shown_tenants=settings.metrics_tenants
        )
        for label in keys.labels:
            metrics.LIVE_TURNS.labels(label)  # shown from the start
        app = build_app(turns, directory, catalogue, readiness, keys, settings.limits)
        http = HttpServer(app, settings.http_host, settings.http_port, settings.max_header_bytes)
        serving = tasks.create_task(http.serve_http(), name="http")
        await http.wait_started()
        yield Gateway(
            servicer=GatewayServicer(turns, directory, catalogue, keys, settings.limits),
            http_port=http.port,
            turns=turns,
            gauges=QueueGauges(directory, queues, readiness),
        )
        http.close()
        await serving


def _limits(settings: GatewaySettings) -> QueueLimits:
    return QueueLimits(
        max_waiting=settings.max_waiting,
        max_waiting_per_tenant=settings.max_waiting_per_tenant,
        max_wait_s=settings.request_timeout_s,
        cold_start_s=settings.cold_start_s,
    )
