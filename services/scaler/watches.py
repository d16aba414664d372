"""All watches of the process: one for each ScaledObject that asks."""

from __future__ import annotations

import asyncio
import time

from services.common.errors import Capacity, Unavailable
from services.scaler import metrics
from services.scaler.metadata import Trigger, read_trigger
from services.scaler.settings import ScalerSettings
from services.scaler.watch import Queues, Watch

MOST = 1024
# In the place of a namespace: triggers of the settings, watched without being asked for.
_OWN = ""


class Watches:
    """`run` must run: watches live in its task group."""

    def __init__(self, queues: Queues, settings: ScalerSettings) -> None:
        self._queues = queues
        self._settings = settings
        self._watches: dict[tuple[str, str], tuple[Watch, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()
        self._closed = False

    async def get(self, namespace: str, name: str, trigger: Trigger) -> Watch:
        """The watch of a ScaledObject; a new one, without a past, where its trigger changed.

        Raises Unavailable while the scaler stops, Capacity where too many ScaledObjects ask.
        """
        await self._started.wait()
        found = self._watches.get((namespace, name))
        if found is not None and found[0].trigger == trigger:
            return found[0]
        if self._closed or self._tasks is None:
            raise Unavailable("the scaler is stopping", retry_after_s=1)
        if found is not None:
            await self._end((namespace, name))
        if len(self._watches) >= MOST:
            raise Capacity(f"more than {MOST} ScaledObjects", retry_after_s=60)
        settings = self._settings
        watch = Watch(trigger, self._queues, look_s=settings.look_s, idle_look_s=settings.idle_look_s)
        task = self._tasks.create_task(watch.run(), name=f"watch {trigger.queue}")
        self._watches[namespace, name] = watch, task
        return watch

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._started.set()
            for number, metadata in enumerate(self._settings.triggers):
                await self.get(_OWN, f"{number}", read_trigger(metadata))
            while True:
                await asyncio.sleep(self._settings.forget_s / 10)
                for key, (watch, _) in list(self._watches.items()):
                    if (
                        key[0] != _OWN
                        and not watch.listeners
                        and time.monotonic() - watch.asked_s > self._settings.forget_s
                    ):
                        await self._end(key)

    async def close(self) -> None:
        """Ends every stream of activity in good order: KEDA then connects again at once, and not after a growing
        pause as it would after an error."""
        self._closed = True
        for key in list(self._watches):
            await self._end(key)

    async def _end(self, key: tuple[str, str]) -> None:
        watch, task = self._watches.pop(key)
        task.cancel()
        await watch.close()
        if all(other.trigger.queue != watch.trigger.queue for other, _ in self._watches.values()):
            metrics.forget(watch.trigger.queue)
