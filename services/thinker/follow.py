"""A follower: `python -m services.thinker` with a node_rank other than 0.

It serves health only: SERVING once its own part of the model and the leader's are loaded. After SIGTERM it keeps
working while the leader drains, for at most `drain_s`, so that a group that is deleted can finish its answers. It does
not use Redis.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from services.common.errors import BadInput
from services.common.server import ServiceHost
from services.thinker.engine.arguments import engine_arguments
from services.thinker.engine.environment import on_cpu
from services.thinker.engine.follower import FollowerWorkers
from services.thinker.group import following
from services.thinker.service import read_checkpoint
from services.thinker.settings import ThinkerSettings

NAME = "antiphon.v1.ThinkerFollower"


async def follow(settings: ThinkerSettings) -> None:
    """Run until SIGTERM. Fail when the leader or a worker process of this machine goes away."""
    async with AsyncExitStack() as stack:
        host = await stack.enter_async_context(ServiceHost(settings, NAME))
        await host.start()
        try:
            leader_gone = await stack.enter_async_context(following(settings))
            checkpoint = await asyncio.to_thread(read_checkpoint, settings)
        except BadInput as error:
            raise SystemExit(f"ANTIPHON_{(error.param or 'model').upper()}: {error.message}") from None
        tasks = await stack.enter_async_context(asyncio.TaskGroup())

        async def fail_when(gone: asyncio.Event, reason: str) -> None:
            await gone.wait()
            host.abort(reason)

        watches = [tasks.create_task(fail_when(leader_gone, "the leader is gone"), name="leader-gone")]
        arguments = engine_arguments(
            settings, checkpoint, on_cpu=on_cpu(), hidden_states_endpoint=settings.hidden_states_endpoint
        )
        workers = await FollowerWorkers.start(arguments)
        stack.push_async_callback(workers.close)
        watches.append(tasks.create_task(fail_when(workers.died, "a worker of the engine is gone"), name="worker-gone"))

        def stop_watching() -> None:
            for watch in watches:
                watch.cancel()

        stack.callback(stop_watching)
        host.on_drain(stop_watching)
        host.on_drain(leader_gone.wait)
        await host.serve(started=True)
