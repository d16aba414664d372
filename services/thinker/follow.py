"""A follower: `python -m services.thinker` with a node_rank other than 0.

It serves nothing but health: SERVING once its part of the model is loaded and the leader's is. At SIGTERM it works on
while the leader drains, for `drain_s` at most, so that a group that is taken away ends its answers. It uses no Redis.
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
    """Runs until SIGTERM, or fails where the leader or a worker of this machine is gone."""
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

        def watch_no_more() -> None:
            for watch in watches:
                watch.cancel()

        stack.callback(watch_no_more)
        host.on_drain(watch_no_more)
        host.on_drain(leader_gone.wait)
        await host.serve(started=True)
