"""One gateway with scripted stages, files and batches, which all clients talk with."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from tests.clients.obedient import ObedientStory, card
from tests.clients.tls_front import tls_front
from tests.fixtures.redis import RedisServer
from tests.fixtures.tls import Certificates, make_certificates
from tests.gateway.batches.conftest import batching
from tests.gateway.conftest import store
from tests.gateway.scripted.stages import Stages

__all__ = ["store"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def secure_url(stages: Stages, certificates: Certificates) -> AsyncGenerator[str]:
    """The gateway's URL with TLS."""
    async with tls_front(stages.gateway.port, certificates) as port:
        yield f"https://127.0.0.1:{port}"


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stages(store: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncGenerator[Stages]:
    """At the end, nothing may be left of the clients' turns. What they say has room."""
    folder = tmp_path_factory.mktemp("clients")
    more: dict[str, Any] = {"slots": 8, "max_media_bytes": 4 << 20, "max_body_bytes": 16 << 20}
    async with batching(store.url, folder, story=ObedientStory(), card=card(), **more) as running:
        yield running.stages
