"""The engine of a scripted worker: one of its requests may be fatal to it, and takes the others along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

from antiphon.v1 import common_pb2
from services.common.errors import ENGINE_FAILED, MOVED, Unavailable, WorkerLost
from services.common.quarantine import Quarantine

E = TypeVar("E")


class ScriptedEngine:
    """Runs requests side by side. Their first step waits for `may_step`; in it, a fatal request ends the engine."""

    def __init__(self, end_worker: Callable[[], None]) -> None:
        self.may_step = asyncio.Event()
        self.may_step.set()
        # Ids of the requests in the engine.
        self.inside: list[str] = []
        self._died = asyncio.Event()
        self._quarantine = Quarantine(60.0)
        self._end_worker = end_worker

    async def run(
        self, context: common_pb2.RequestContext, events: AsyncGenerator[E], *, is_fatal: bool
    ) -> AsyncGenerator[E]:
        """Yield the events of a request. Raise WorkerLost when the engine fails meanwhile."""
        with await self._quarantine.enter(context.failed_engines) as quarantined:
            if self._died.is_set():
                raise Unavailable("the engine is gone", code=MOVED)
            self.inside.append(context.request_id)
            try:
                await self.may_step.wait()
                await asyncio.sleep(0)  # so that all that wait are in the step
                if is_fatal:
                    self._died.set()
                    self._end_worker()
                async with aclosing(events):
                    while (event := await self._next(events)) is not None:
                        quarantined.close()
                        yield event
            finally:
                self.inside.remove(context.request_id)

    async def _next(self, events: AsyncIterator[E]) -> E | None:
        made, died = asyncio.ensure_future(anext(events, None)), asyncio.ensure_future(self._died.wait())
        try:
            await asyncio.wait((made, died), return_when=asyncio.FIRST_COMPLETED)
            if self._died.is_set():
                raise WorkerLost("the engine is gone", code=ENGINE_FAILED)
            return await made
        finally:
            for task in (made, died):
                task.cancel()
            await asyncio.gather(made, died, return_exceptions=True)
