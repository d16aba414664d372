"""Scripted workers that do what each turn's plan says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from antiphon.v1 import talker_pb2, thinker_pb2
from bench.metering.plan import STORY, Plan
from services.common.errors import BadInput
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.story import CODEBOOKS
from tests.gateway.scripted.worker import ScriptedPreprocess, ScriptedTalker, ScriptedThinker

_WORKERS, _SLOTS = 2, 32
_PACE_S = 0.008


async def _act(plan: Plan, stage: str, sent: int, turn_id: str) -> bool:
    """Do what the plan says once so much was sent. Return whether to go on."""
    plan.turn_id = turn_id
    if stage != plan.stage or sent != plan.after or plan.end not in ("cancel", "fail", "resume"):
        return True
    if plan.end == "resume":
        has_ended, _ = plan.has_acted.is_set(), plan.has_acted.set()
        return has_ended
    plan.has_acted.set()
    if plan.end == "fail":
        raise BadInput("This turn is to fail.", code="scripted")
    await asyncio.Event().wait()
    return False


class PlannedThinker(ScriptedThinker):
    plans: Mapping[int, Plan]

    async def _events(
        self, request: thinker_pb2.GenerateRequest, prompt: list[int]
    ) -> AsyncIterator[thinker_pb2.GenerateResponse]:
        plan, sent = self.plans.get(request.sampling.seed), len(request.generated_token_ids)
        async for event in super()._events(request, prompt):
            await asyncio.sleep(_PACE_S)
            if plan is not None and not await _act(plan, self.stage, sent, request.context.request_id):
                return
            yield event
            sent += event.HasField("text")


class PlannedTalker(ScriptedTalker):
    plans: Mapping[int, Plan]

    async def _events(
        self, start: talker_pb2.SpeakStart, requests: AsyncIterator[talker_pb2.SpeakRequest]
    ) -> AsyncIterator[talker_pb2.SpeakResponse]:
        plan, sent = self.plans.get(start.sampling.seed), len(start.delivered_codes) // CODEBOOKS
        async for event in super()._events(start, requests):
            await asyncio.sleep(_PACE_S)
            if plan is not None and not await _act(plan, self.stage, sent, start.context.request_id):
                return
            yield event
            sent += event.HasField("speech")


@asynccontextmanager
async def planned_stages(redis_url: str, plans: Mapping[int, Plan]) -> AsyncGenerator[None]:
    """Run two workers of each stage inside the block."""
    async with AsyncExitStack() as stack:
        kinds: tuple[Any, ...] = (ScriptedPreprocess, PlannedThinker, PlannedTalker)
        for kind in kinds:
            for _ in range(_WORKERS):
                worker = kind(redis_url, INSTRUCT, STORY, _SLOTS)
                worker.plans = plans
                await stack.enter_async_context(worker)
        yield
