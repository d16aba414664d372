"""Conversations that are too long for the model."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from services.gateway.realtime.conversation import (
    AudioContent,
    CallContent,
    CallOutputContent,
    Content,
    Item,
    TextContent,
)
from services.gateway.realtime.truncate import shortened
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.asides import Asides
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.scripted.stages import Stages, scripted_stages

TEXT: dict[str, Any] = {"output_modalities": ["text"]}


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    """The model reads three messages, and no more."""
    async with scripted_stages(store.url, Asides(tokens_a_message=300), workers=1, slots=8) as running:
        yield running
        await wait_until(running.clean)


async def read(stages: Stages, client: Client) -> list[str]:
    """Ask for a response out of band, so that the conversation stays as it is. Return what the model has read."""
    options = {**TEXT, "conversation": "none", "instructions": "Be kind."}
    done = (await client.ask("response.create", "response.done", response=options)).response
    assert done.status == "completed"
    start = (stages.calls("preprocess") or stages.calls("thinker"))[-1]
    return [message.parts[0].text for message in start.messages]


async def test_the_oldest_items_are_left_out_from_then_on(stages: Stages) -> None:
    ratio = {"type": "retention_ratio", "retention_ratio": 0.5}
    async with talking(stages, truncation=ratio) as client:
        assert client.events[-1].session.truncation.retention_ratio == 0.5
        for name in "abcd":
            await client.write(name)
        assert await read(stages, client) == ["Be kind.", "c", "d"]
        await client.write("e")
        assert await read(stages, client) == ["Be kind.", "e"]  # two would be more than half
        await client.write("f")
        asked = len(stages.calls("thinker"))
        assert await read(stages, client) == ["Be kind.", "e", "f"]
        assert len(stages.calls("thinker")) == asked + 1  # it was not too long
        # They are still items of the conversation.
        first = next(event.item.id for event in client.events if event.type == "conversation.item.done")
        await client.ask("conversation.item.retrieve", "conversation.item.retrieved", item_id=first)


async def test_as_few_as_possible_are_left_out_by_default(stages: Stages) -> None:
    async with talking(stages) as client:
        assert client.events[-1].session.truncation == "auto"
        for name in "abc":
            await client.write(name)
        assert await read(stages, client) == ["Be kind.", "b", "c"]


async def test_it_may_be_disabled(stages: Stages) -> None:
    async with talking(stages, truncation="disabled") as client:
        assert client.events[-1].session.truncation == "disabled"
        for name in "abcd":
            await client.write(name)
        done = (await client.ask("response.create", "response.done", response=TEXT)).response
        assert (done.status, done.status_details.error.code) == ("failed", "context_length_exceeded")


async def test_what_the_client_chose_is_not_truncated(stages: Stages) -> None:
    async with talking(stages) as client:
        items = [await client.write(name) for name in "abcd"]
        chosen = {**TEXT, "input": [{"type": "item_reference", "id": item.id} for item in items]}
        done = (await client.ask("response.create", "response.done", response=chosen)).response
        assert done.status_details.error.code == "context_length_exceeded"
        wrong = {"type": "retention_ratio", "retention_ratio": 0.5, "token_limits": {"post_instructions": 100}}
        error = await client.error("session.update", session={"type": "realtime", "truncation": wrong})
        assert "token_limits" in error.param


def item(content: Content, role: str = "user") -> Item:
    return Item(role, [content])


SHORT = item(TextContent("a"))
CALL = item(CallContent("c", "f", "{}"), "assistant")
OUTPUT = item(CallOutputContent("c", "o"), "tool")
LONG = item(AudioContent(bytes(48_000 * 60)))


@pytest.mark.parametrize(
    ("items", "ratio", "left"),
    [
        ([SHORT], 0.5, None),
        ([SHORT, SHORT, SHORT, SHORT], 1.0, 3),
        ([SHORT, SHORT, SHORT, SHORT], 0.5, 2),
        ([SHORT, SHORT, SHORT, SHORT], 0.0, 1),
        ([LONG, SHORT, SHORT], 0.9, 2),
        ([SHORT, SHORT, LONG], 0.1, 1),
        ([CALL, OUTPUT, SHORT], 1.0, 1),
        ([SHORT, CALL, OUTPUT, SHORT], 1.0, 3),
    ],
)
def test_items_are_left_out_by_their_weight(items: list[Item], ratio: float, left: int | None) -> None:
    fewer = shortened(items, ratio)
    assert fewer == (items[-left:] if left is not None else None)
