"""A gateway in front of scripted stages, for the tests of DashScope's forms."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from antiphon.v1 import common_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT, store
from tests.gateway.scripted.stages import Stages, scripted_stages

__all__ = ["store"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stages(store: RedisServer) -> AsyncIterator[Stages]:
    card = common_pb2.ModelCard()
    card.CopyFrom(INSTRUCT)
    card.structures_answers, card.tool_call_token_id = True, 151_657
    async with scripted_stages(store.url, card=card) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def stages(module_stages: Stages) -> AsyncIterator[Stages]:
    """Nothing may be left of a test's turns."""
    for worker in module_stages.workers:
        worker.calls.clear()
    yield module_stages
    await wait_until(module_stages.clean)
