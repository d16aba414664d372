"""Starts the scaler: `python -m services.scaler`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from contextlib import AsyncExitStack

from externalscaler import externalscaler_pb2_grpc
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from services.common.redis_client import connect
from services.common.server import ServiceHost, configure_logging, run_main
from services.common.settings import load_settings_or_exit
from services.scaler.servicer import ExternalScalerServicer
from services.scaler.settings import ScalerSettings
from services.scaler.watches import Watches


async def main(settings: ScalerSettings) -> None:
    configure_logging(settings)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "externalscaler.ExternalScaler"))
        redis = connect(settings.redis)
        stack.push_async_callback(redis.aclose)
        scaler_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        watches = Watches(LiveWorkers(redis, QueueScript(redis)), settings, scaler_id)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = tasks.create_task(watches.run(), name="watches")
        stack.callback(background.cancel)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(ExternalScalerServicer(watches), host.server)
        host.on_drain(watches.close)
        await host.serve()


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(ScalerSettings)))
