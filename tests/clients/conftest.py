"""One gateway with scripted stages, which all clients talk with."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest_asyncio

from tests.clients.obedient import ObedientStory, card
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import store
from tests.gateway.scripted.stages import Stages, scripted_stages

__all__ = ["store"]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    """At the end, nothing may be left of the clients' turns."""
    async with scripted_stages(store.url, ObedientStory(), workers=1, card=card()) as running:
        yield running
        await wait_until(running.clean)
