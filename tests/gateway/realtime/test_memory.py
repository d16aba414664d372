"""What a session holds of the gateway's memory: also what only its responses and transcripts read yet."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.asides import Asides
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_server_vad import ROOMY
from tests.gateway.responses.conftest import WEATHER
from tests.gateway.responses.conftest import card as tools_card
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

SAID = bytes(600_000)
MOST_TEXT = 10_000


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8, **ROOMY) as running:
        yield running
        await wait_until(running.clean)
        await wait_until(lambda: not running.gateway.gateway.memory.budget.held_bytes)


@pytest_asyncio.fixture
async def client(stages: Stages) -> AsyncIterator[Client]:
    async with talking(stages) as made:
        yield made


def held_bytes(stages: Stages) -> int:
    return stages.gateway.gateway.memory.budget.held_bytes


async def delete(client: Client, item_id: str) -> None:
    await client.ask("conversation.item.delete", "conversation.item.deleted", item_id=item_id)


async def test_an_item_that_is_deleted_counts_until_no_response_reads_it(stages: Stages, client: Client) -> None:
    item = await client.say(SAID)
    stages.next_calls("thinker", Act("hang"))
    created = await client.ask("response.create", "response.created", response={"conversation": "none"})
    await wait_until(lambda: stages.hanging("thinker"))
    await delete(client, item.id)
    assert held_bytes(stages) >= len(SAID)
    await client.ask("response.cancel", "response.done", response_id=created.response.id)
    await client.write("hello")
    assert held_bytes(stages) < len(SAID)


async def test_an_item_that_is_deleted_counts_until_it_is_transcribed(stages: Stages, client: Client) -> None:
    session = {"type": "realtime", "audio": {"input": {"transcription": {}}}}
    await client.ask("session.update", "session.updated", session=session)
    stages.next_calls("thinker", Act("hang"))
    item = await client.say(SAID)
    await wait_until(lambda: stages.hanging("thinker"))
    await delete(client, item.id)
    assert held_bytes(stages) >= len(SAID)


async def test_what_a_response_is_told_counts(stages: Stages, client: Client) -> None:
    await client.write("hello")
    stages.next_calls("thinker", Act("hang"))
    told: dict[str, Any] = {"conversation": "none", "instructions": "x" * 90_000}
    created = await client.ask("response.create", "response.created", response=told)
    assert held_bytes(stages) >= 90_000
    await client.ask("response.cancel", "response.done", response_id=created.response.id)
    await client.write("hello")
    assert not held_bytes(stages)


@pytest.mark.parametrize("what", ["instructions", "tools"])
async def test_a_session_takes_nothing_that_no_response_could_read(store: RedisServer, what: str) -> None:
    long = "x" * (MOST_TEXT + 1)
    given = {"instructions": long} if what == "instructions" else {"tools": [{**WEATHER, "description": long}]}
    settings: dict[str, Any] = {**ROOMY, "max_text_bytes": MOST_TEXT}
    async with (
        scripted_stages(store.url, Asides(), card=tools_card(), workers=1, slots=8, **settings) as stages,
        talking(stages, instructions="Be brief.") as client,
    ):
        error = await client.error("session.update", session={"type": "realtime", **given})
        assert error.code == "text_too_large"
        shown = (await client.ask("session.update", "session.updated", session={"type": "realtime"})).session
        assert (shown.instructions, shown.tools) == ("Be brief.", [])
