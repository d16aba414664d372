"""Starts the scaler: `python -m services.scaler`, settings from ANTIPHON_*."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from externalscaler import externalscaler_pb2_grpc
from services.common.queues.cost_writer import CostWriterLease
from services.common.queues.live import LiveWorkers
from services.common.queues.script import QueueScript
from services.common.redis_client import RedisClient, connect
from services.common.server import ServiceHost, run_main
from services.common.settings import load_settings_or_exit
from services.common.telemetry.logs import configure_logging
from services.scaler.deletion_costs import DeletionCosts
from services.scaler.kubernetes_pods import KubernetesPods
from services.scaler.servicer import ExternalScalerServicer
from services.scaler.settings import ScalerSettings
from services.scaler.watches import Watches


@asynccontextmanager
async def deletion_costs(
    settings: ScalerSettings, live: LiveWorkers, redis: RedisClient, scaler_id: str
) -> AsyncGenerator[DeletionCosts | None]:
    """Yield what writes the deletion costs of pods; None where the settings do not ask for them."""
    if not settings.pod_deletion_cost:
        yield None
        return
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs every request
    namespace = settings.pod_namespace
    async with KubernetesPods(settings.kubernetes_api, namespace, settings.service_account) as pods:
        yield DeletionCosts(
            live,
            pods,
            CostWriterLease(redis, namespace, scaler_id),
            namespace=namespace,
            refresh_s=settings.pod_deletion_cost_refresh_s,
            patches_per_s=settings.pod_deletion_cost_patches_per_s,
        )


async def main(settings: ScalerSettings) -> None:
    configure_logging(settings.log_level, settings.log_format)
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, "externalscaler.ExternalScaler"))
        redis = connect(settings.redis)
        stack.push_async_callback(redis.aclose)
        scaler_id = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        live = LiveWorkers(redis, QueueScript(redis))
        costs = await stack.enter_async_context(deletion_costs(settings, live, redis, scaler_id))
        watches = Watches(live, settings, scaler_id, costs)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        background = [tasks.create_task(watches.run(), name="watches")]
        if costs is not None:
            background.append(tasks.create_task(costs.run(), name="deletion-costs"))
        for task in background:
            stack.callback(task.cancel)
        externalscaler_pb2_grpc.add_ExternalScalerServicer_to_server(ExternalScalerServicer(watches), host.server)
        host.on_drain(watches.close)
        await host.serve()


if __name__ == "__main__":
    run_main(main(load_settings_or_exit(ScalerSettings)))
