"""Starts the thinker: `python -m services.thinker`, settings from ANTIPHON_*; with a node_rank, a follower of one."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from services.common.errors import BadInput
from services.common.scratch import ScratchDir
from services.common.server import ServiceHost, run_main
from services.common.settings import load_settings_or_exit
from services.common.telemetry.logs import configure_logging
from services.thinker.engine.environment import prepare_environment
from services.thinker.group import Leader, leading
from services.thinker.settings import ThinkerSettings

if TYPE_CHECKING:
    from services.thinker.engine.core_process import CoreProcess


async def abort_with_a_follower(host: ServiceHost, leader: Leader) -> None:
    await leader.lost.wait()
    host.abort("a follower is gone")


async def main(settings: ThinkerSettings, core: CoreProcess | None) -> None:
    # vLLM reads its variables when it is imported, so these come after prepare_environment.
    from antiphon.v1 import thinker_pb2_grpc
    from services.common.channels import ChannelPool
    from services.common.engine_watch import fail_when_hung
    from services.common.stages import THINKER
    from services.common.worker import slot_keeper, taking_tickets
    from services.thinker import metrics
    from services.thinker.service import running_thinker
    from services.thinker.servicer import NAME, FeatureClient, ThinkerServicer

    async with AsyncExitStack() as stack:
        # vLLM's sockets: a killed thinker leaves them there, and the next start removes them.
        os.environ.setdefault("VLLM_RPC_BASE_PATH", str(stack.enter_context(ScratchDir()).path))
        host = await stack.enter_async_context(ServiceHost(settings, NAME))
        channels = ChannelPool()
        stack.push_async_callback(channels.close)
        client = FeatureClient(channels, settings.feature_timeout_s)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        try:
            leader = await stack.enter_async_context(leading(settings))
            watch = tasks.create_task(abort_with_a_follower(host, leader), name="follower-gone")
            stack.callback(watch.cancel)
            host.on_drain(watch.cancel)
            thinker = await stack.enter_async_context(running_thinker(settings, client, host.address, core))
        except BadInput as error:
            raise SystemExit(f"ANTIPHON_{(error.param or 'model').upper()}: {error.message}") from None
        card = thinker.checkpoint.card
        keeper = await stack.enter_async_context(slot_keeper(settings, THINKER, host, card))
        thinker_pb2_grpc.add_ThinkerServicer_to_server(
            ThinkerServicer(thinker.generator, thinker.hidden_states, keeper.open), host.server
        )

        async def fail_with_the_engine() -> None:
            await thinker.engine.died.wait()
            metrics.ENGINE_UP.set(0)
            keeper.drain()
            host.fail("the engine is gone")

        hung = fail_when_hung(host, keeper, thinker.engine, settings.hang_after_s, metrics.ENGINE_ANSWER.set)
        await stack.enter_async_context(
            taking_tickets(
                *(host, keeper, settings.hand_over_after_s, fail_with_the_engine(), hung),
                wait_released=thinker.hidden_states.wait_released,
            )
        )
        await host.serve(started=True)


if __name__ == "__main__":
    wanted = load_settings_or_exit(ThinkerSettings)
    configure_logging(wanted.log_level, wanted.log_format)
    prepare_environment(json_logs=wanted.log_format == "json")
    gc.disable()  # collections are a quarter of the time of vLLM's import
    from services.thinker.engine.worker_processes import forked_workers, workers_beside_the_core

    workers = workers_beside_the_core(wanted)
    if wanted.node_rank:
        from services.thinker.follow import follow

        gc.enable()
        with forked_workers(workers):
            run_main(follow(wanted))
    from services.thinker.engine.core_process import forked_core

    gc.enable()
    with forked_core(workers) as core:
        run_main(main(wanted, core))
