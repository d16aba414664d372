"""Stages that do what a user asks of them, for whole conversations."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.clients.obedient import ObedientStory, card
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.test_server_vad import EAGER_OFF
from tests.gateway.scripted.stages import Stages, scripted_stages


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, ObedientStory(), card=card(), workers=1, slots=8, **EAGER_OFF) as running:
        yield running
        await wait_until(running.clean)
