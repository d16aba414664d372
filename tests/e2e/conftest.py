"""The client of the stack with two workers a stage. Its undisturbed answers are asked for once in a run."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.e2e.asking import Heard, client_of
from tests.e2e.questions import Client
from tests.e2e.workers import all_ready
from tests.fixtures.stack import Stack


@pytest.fixture(scope="session")
def undisturbed() -> dict[str, Heard]:
    return {}


@pytest_asyncio.fixture
async def pairs(stack_of_pairs: Stack, undisturbed: dict[str, Heard]) -> AsyncIterator[Client]:
    """Ask a stack of two workers a stage, all of which are ready."""
    await all_ready(stack_of_pairs)
    async with client_of(stack_of_pairs) as client:
        yield Client(client, stack_of_pairs, undisturbed)
