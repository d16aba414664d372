"""Scripted workers that die as the plans say, and others in their place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from antiphon.v1 import preprocess_pb2, talker_pb2, thinker_pb2
from bench.conversation_losses.plan import CUT, FIRST, HELD_AT, STORY, Plan, Plans
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.story import CODEBOOKS
from tests.gateway.scripted.worker import ScriptedPreprocess, ScriptedTalker, ScriptedThinker, ScriptedWorker

_WORKERS, _SLOTS = 2, 64
_PACE_S = 0.01


class Mortal(ScriptedWorker):
    plans: Plans

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.has_died = asyncio.Event()

    def kill(self) -> None:
        super().kill()
        self.has_died.set()

    async def die(self, plan: Plan) -> None:
        """Die for the first time that this conversation asks for it. Does not return then."""
        if not plan.lost_worker.is_set():
            plan.lost_worker.set()
            self.kill()
            await asyncio.Event().wait()


class MortalPreprocess(Mortal, ScriptedPreprocess):
    async def _events(self, start: preprocess_pb2.PrepareStart) -> AsyncIterator[preprocess_pb2.PrepareResponse]:
        plan = self.plans.of_instructions(start.messages[0].parts[0].text)
        if plan.stage == self.stage:
            await self.die(plan)
        plan.read = [(message.role, "".join(part.text for part in message.parts)) for message in start.messages]
        async for event in super()._events(start):
            yield event


class MortalThinker(Mortal, ScriptedThinker):
    async def _events(
        self, request: thinker_pb2.GenerateRequest, prompt: list[int]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        plan, answer = self.plans.of_seed(request.sampling.seed)
        sent = len(request.generated_token_ids)
        async for event in super()._events(request, prompt):
            if (plan.stage, answer, sent) == (self.stage, FIRST, plan.after):
                await self.die(plan)
            await asyncio.sleep(_PACE_S)
            yield event
            sent += event.HasField("text")


class MortalTalker(Mortal, ScriptedTalker):
    async def _events(
        self, start: talker_pb2.SpeakStart, requests: AsyncIterator[talker_pb2.SpeakRequest]
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        plan, answer = self.plans.of_seed(start.sampling.seed)
        sent = len(start.delivered_codes) // CODEBOOKS
        async for event in super()._events(start, requests):
            if (plan.stage, answer, sent) == (self.stage, FIRST, plan.after):
                await self.die(plan)
            if answer == CUT and sent == HELD_AT:
                await plan.lost_gateway.wait()
            await asyncio.sleep(_PACE_S)
            yield event
            sent += event.HasField("speech")


async def _keep(kind: Any, redis_url: str, plans: Plans) -> None:
    """Have a worker of this kind, and another one once it has died."""
    while True:
        worker = kind(redis_url, INSTRUCT, STORY, _SLOTS)
        worker.plans = plans
        async with worker:
            await worker.has_died.wait()


@asynccontextmanager
async def mortal_stages(redis_url: str, plans: Plans) -> AsyncGenerator[None]:
    """Run two workers of each stage inside the block."""
    async with asyncio.TaskGroup() as tasks:
        keeping = [
            tasks.create_task(_keep(kind, redis_url, plans), name=f"keep a {kind.stage}")
            for kind in (MortalPreprocess, MortalThinker, MortalTalker)
            for _ in range(_WORKERS)
        ]
        yield
        for task in keeping:
            task.cancel()
