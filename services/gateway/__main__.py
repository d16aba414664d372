"""Starts the gateway: `python -m services.gateway`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack

import uvloop

# gRPC reads this as it is imported. Since 1.80 it hands each message of its clients from one of its threads to another
# before ours gets it; as it did before, the thread that waits for messages reads them. That is a tenth of what a frame
# of speech costs, or more. A gRPC that no longer knows the name says so once and goes on.
os.environ.setdefault("GRPC_EXPERIMENTS", "-event_engine_client")
# The gateway forks to start the process that hears, which runs another program at once: gRPC need not get ready for it.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

from antiphon.v1 import gateway_pb2_grpc
from services.common.malloc import give_back_free_blocks, give_back_large_blocks
from services.common.server import ServiceHost
from services.common.settings import SettingsError, load_settings_or_exit
from services.common.telemetry.logs import configure_logging
from services.gateway.gateway import open_gateway
from services.gateway.limits import MAX_VALUES
from services.gateway.settings import GatewaySettings


async def main(settings: GatewaySettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    give_back_large_blocks()
    async with AsyncExitStack() as stack:
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        stack.callback(tasks.create_task(give_back_free_blocks(), name="free blocks").cancel)
        host = await stack.enter_async_context(
            ServiceHost(
                settings,
                "antiphon.v1.Gateway",
                max_fields=MAX_VALUES,
                connections=settings.grpc_connections,
                shutdown_delay_s=settings.shutdown_delay_s,
            )
        )
        try:
            gateway = await stack.enter_async_context(open_gateway(settings))
        except SettingsError as error:  # in files that settings name
            raise SystemExit(f"wrong settings:\n{error}") from None
        gateway_pb2_grpc.add_GatewayServicer_to_server(gateway.servicer, host.server)
        host.announce_port("http", gateway.http_port)
        host.on_scrape(gateway.gauges.refresh)
        host.on_shutdown_delay(gateway.leave)
        host.on_drain(host.refuse_calls)
        host.on_drain(gateway.drain)
        host.on_cut(gateway.turns.cut)
        await host.serve()


if __name__ == "__main__":
    uvloop.run(main(load_settings_or_exit(GatewaySettings)))
