"""All watches of the process: one for each trigger of each calling ScaledObject, and those of the settings."""

from __future__ import annotations

import asyncio
import time

from services.common.errors import Capacity, Unavailable
from services.scaler import metrics
from services.scaler.metadata import Trigger, read_trigger
from services.scaler.settings import ScalerSettings
from services.scaler.share import Always, Leased
from services.scaler.watch import Queues, ScaleDownListener, Watch

MOST = 1024


# The namespace of the settings' own triggers, which are watched without a ScaledObject.
_OWN = ""

_Key = tuple[str, str, Trigger]
"""Namespace and name of a ScaledObject, and one of its triggers. Each has its own policy and history."""


class Watches:
    """Starts and ends watches. `run` must be running: they live in its task group. `scaler_id` is unique to this start
    of the process. `on_scale_down` hears of each stage that is about to lose replicas."""

    def __init__(
        self, queues: Queues, settings: ScalerSettings, scaler_id: str, on_scale_down: ScaleDownListener | None = None
    ) -> None:
        self._queues = queues
        self._settings = settings
        self._scaler_id = scaler_id
        self._on_scale_down = on_scale_down
        self._watches: dict[_Key, tuple[Watch, asyncio.Task[None]]] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._started = asyncio.Event()
        self._closed = False

    async def get(self, namespace: str, name: str, trigger: Trigger) -> Watch:
        """Return the watch of a ScaledObject's trigger; the first call starts it.

        Raise Unavailable while the scaler stops, Capacity where there are too many triggers.
        """
        await self._started.wait()
        return self._find_or_start((namespace, name, trigger))

    async def run(self) -> None:
        """Start the settings' watches and end forgotten ones, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._started.set()
            for metadata in self._settings.triggers:
                self._find_or_start((_OWN, "", read_trigger(metadata)))
            while True:
                await asyncio.sleep(self._settings.forget_s / 10)
                for key, (watch, _) in list(self._watches.items()):
                    silent_s = time.monotonic() - watch.asked_s
                    if key[0] != _OWN and not watch.listeners and silent_s > self._settings.forget_s:
                        await self._end(key)

    async def close(self) -> None:
        """End every stream of activity without an error. KEDA then connects again at once; after an error it waits,
        longer each time."""
        self._closed = True
        for key in list(self._watches):
            await self._end(key)

    def _find_or_start(self, key: _Key) -> Watch:
        if (found := self._watches.get(key)) is not None:
            return found[0]
        if self._closed or self._tasks is None:
            raise Unavailable("the scaler is stopping", retry_after_s=1)
        if len(self._watches) >= MOST:
            raise Capacity(f"this scaler watches at most {MOST} triggers of ScaledObjects", retry_after_s=60)
        settings, trigger = self._settings, key[2]
        share = (
            Leased(self._scaler_id, max(settings.look_s, settings.idle_look_s), settings.takeover_s)
            if key[0] == _OWN
            else Always()
        )
        watch = Watch(
            trigger,
            self._queues,
            look_s=settings.look_s,
            idle_look_s=settings.idle_look_s,
            share=share,
            on_scale_down=self._on_scale_down,
        )
        task = self._tasks.create_task(watch.run(), name=f"watch {trigger.queue}")
        self._watches[key] = watch, task
        return watch

    async def _end(self, key: _Key) -> None:
        watch, task = self._watches.pop(key)
        task.cancel()
        await watch.close()
        if all(other.trigger.queue != watch.trigger.queue for other, _ in self._watches.values()):
            metrics.forget(watch.trigger.queue)
