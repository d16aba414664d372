"""Turns of a short text: the thinker renders the prompt, and no preprocess worker is asked."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from antiphon.v1 import common_pb2
from services.gateway.turn.intent import SHORT_TEXT_BYTES
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.checks import check_whole
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HEARD, HELLO, SPEECH, Stages, scripted_stages

CARD = common_pb2.ModelCard()
CARD.CopyFrom(INSTRUCT)
CARD.renders_messages = True


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, card=CARD) as running:
        yield running
        await wait_until(running.clean)


@pytest.mark.parametrize("fields", [{}, SPEECH])
async def test_a_short_text_asks_no_preprocess_worker(stages: Stages, fields: dict[str, Any]) -> None:
    told = await stages.ask(**fields)
    check_whole(stages, told, spoken=bool(fields))
    assert not stages.calls("preprocess")
    (call,) = stages.calls("thinker")
    assert (list(call.prompt_token_ids), call.messages[0].parts[0].text) == ([], "hello")
    assert [list(call.prompt_token_ids) for call in stages.calls("talker")] == [[1, 2, 3]] * bool(fields)


async def test_the_prompt_is_told_first(stages: Stages) -> None:
    first = await anext(stages.chunks())
    assert (first["prompt_token_ids"], first["choices"][0]["delta"]["role"]) == ([1, 2, 3], "assistant")


@pytest.mark.parametrize("messages", [HEARD, [{"role": "user", "content": "a" * SHORT_TEXT_BYTES}]])
async def test_media_and_long_text_are_prepared(stages: Stages, messages: list[Any]) -> None:
    assert (await stages.ask(messages)).error is None
    assert len(stages.calls("preprocess")) == 1
    (call,) = stages.calls("thinker")
    assert call.prompt_token_ids
    assert not call.messages


@pytest.mark.parametrize("fields", [{}, SPEECH])
async def test_a_thinker_lost_before_its_prompt_is_asked_again(stages: Stages, fields: dict[str, Any]) -> None:
    stages.next_calls("thinker", Act("die", 0))
    check_whole(stages, await stages.ask(**fields), spoken=bool(fields))
    assert [len(call.messages) for call in stages.calls("thinker")] == [1, 1]


@pytest.mark.parametrize("after", [1, 4])
async def test_a_thinker_lost_after_its_prompt_is_followed_by_one_that_gets_token_ids(
    stages: Stages, after: int
) -> None:
    stages.next_calls("thinker", Act("cut", after))
    check_whole(stages, await stages.ask(**SPEECH), spoken=True)
    calls = sorted(stages.calls("thinker"), key=lambda call: len(call.prompt_token_ids))
    assert [(len(call.messages), list(call.prompt_token_ids)) for call in calls] == [(1, []), (0, [1, 2, 3])]
    assert len(calls[1].generated_token_ids) == after - 1


async def test_a_prompt_that_is_too_long_is_refused_before_anything_is_sent(stages: Stages) -> None:
    body = {"model": CARD.name, "messages": HELLO, "max_tokens": CARD.max_model_len, "stream": True}
    response = await stages.gateway.client.post(CHAT, json=body)
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "context_length_exceeded"
