"""Starts the gateway: `python -m services.gateway`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import AsyncExitStack

import uvloop

from antiphon.v1 import gateway_pb2_grpc
from services.common.channels import ChannelPool
from services.common.queues import QueueClient, QueueLimits
from services.common.redis_client import connect
from services.common.server import ServiceHost, configure_logging
from services.common.settings import load_settings_or_exit
from services.gateway import metrics
from services.gateway.auth import ApiKeys
from services.gateway.directory import ModelDirectory
from services.gateway.http.app import build_app
from services.gateway.http.chat.endpoint import ChatLimits
from services.gateway.http.health import Readiness, observe_forever
from services.gateway.http.server import HttpServer
from services.gateway.servicer import GatewayServicer
from services.gateway.settings import GatewaySettings
from services.gateway.stages.clients import StageClients
from services.gateway.turn.catalogue import Catalogue
from services.gateway.turn.turns import Turns


async def main(settings: GatewaySettings) -> None:
    configure_logging(settings)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "antiphon.v1.Gateway"))
        redis = connect(settings.redis)
        stack.push_async_callback(redis.aclose)
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        limits = QueueLimits(
            max_waiting=settings.max_waiting,
            max_waiting_per_tenant=settings.max_waiting_per_tenant,
            max_wait_s=settings.request_timeout_s,
            cold_start_s=settings.cold_start_s,
        )
        queues = QueueClient(redis, f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}", limits)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = tasks.create_task(queues.run(), name="queues")
        stack.callback(background.cancel)
        turns = await stack.enter_async_context(Turns(queues, StageClients.over(channels)))
        directory, catalogue = ModelDirectory(queues), Catalogue()
        readiness = Readiness(directory, turns)
        observing = tasks.create_task(observe_forever(directory, queues, readiness), name="observe")
        stack.callback(observing.cancel)
        keys = ApiKeys(
            settings.api_key.get_secret_value(), settings.tenant_keys, shown_tenants=settings.metrics_tenants
        )
        for label in keys.labels:
            metrics.LIVE_TURNS.labels(label)  # shown from the start
        app = build_app(
            turns,
            directory,
            catalogue,
            queues,
            readiness,
            keys,
            ChatLimits(
                max_body_bytes=settings.max_body_bytes,
                max_media_bytes=settings.max_media_bytes,
                max_text_bytes=settings.max_text_bytes,
                body_timeout_s=settings.body_timeout_s,
                request_timeout_s=settings.request_timeout_s,
                keep_alive_s=settings.keep_alive_s,
            ),
        )
        servicer = GatewayServicer(
            turns,
            directory,
            catalogue,
            keys,
            request_timeout_s=settings.request_timeout_s,
            max_inline_bytes=settings.max_body_bytes,
            max_text_bytes=settings.max_text_bytes,
        )
        gateway_pb2_grpc.add_GatewayServicer_to_server(servicer, host.server)
        http = HttpServer(app, settings.http_host, settings.http_port, settings.max_header_bytes)
        serving = tasks.create_task(http.serve_http(), name="http")
        await http.wait_started()
        host.announce_port("http", http.port)
        host.on_drain(turns.drain)
        host.on_cut(turns.cut)
        await host.serve()
        http.close()
        await serving


if __name__ == "__main__":
    uvloop.run(main(load_settings_or_exit(GatewaySettings)))
