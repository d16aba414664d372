"""Requests for several choices: a turn for each, and one answer of them all."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import pytest
import pytest_asyncio

from services.common.errors import BadInput
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, scripted_stages


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, workers=2) as running:
        yield running
        await wait_until(running.clean)


async def whole(stages: Stages, **fields: Any) -> Any:
    body = {"model": INSTRUCT.name, "messages": HELLO, **fields}
    return await stages.gateway.client.post(CHAT, json=body)


def check_usage(stages: Stages, usage: dict[str, Any], choices: int) -> None:
    words = len(stages.story.token_ids)
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (stages.story.prompt_tokens, choices * words)
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


@pytest.mark.parametrize(("seed", "seeds"), [(7, [7, 8, 9]), (2**63 - 2, [-(2**63), 2**63 - 2, 2**63 - 1])])
async def test_each_choice_has_a_seed_of_its_own(stages: Stages, seed: int, seeds: list[int]) -> None:
    answer = (await whole(stages, n=3, seed=seed)).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert {choice["message"]["content"] for choice in answer["choices"]} == {stages.story.text}
    assert sorted(call.sampling.seed for call in stages.calls("thinker")) == seeds
    assert len({call.context.request_id for call in stages.calls("thinker")}) == 3
    check_usage(stages, answer["usage"], 3)


async def test_choices_are_streamed_side_by_side(stages: Stages) -> None:
    texts, reasons, usages = ["", ""], ["", ""], list[dict[str, Any]]()
    async for chunk in stages.chunks(n=2):
        usages += [chunk["usage"]] if chunk["usage"] else []
        for choice in chunk["choices"]:
            texts[choice["index"]] += choice["delta"].get("content", "")
            reasons[choice["index"]] += choice["finish_reason"] or ""
    assert (texts, reasons) == ([stages.story.text] * 2, ["stop"] * 2)
    (usage,) = usages
    check_usage(stages, usage, 2)


async def test_a_choice_that_fails_ends_all(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", 2), Act("raise", 0, BadInput("no", param="seed")))
    response = await whole(stages, n=2)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "seed")


async def test_one_lost_worker_costs_one_choice_a_pause(stages: Stages) -> None:
    stages.next_calls("thinker", Act("die", 4))
    answer = (await whole(stages, n=2)).json()
    assert [choice["message"]["content"] for choice in answer["choices"]] == [stages.story.text] * 2
    check_usage(stages, answer["usage"], 2)


@pytest.mark.parametrize("fields", [{"n": 5}, {"n": 2, **SPEECH}])
async def test_too_many_choices_are_refused(stages: Stages, fields: dict[str, Any]) -> None:
    response = await whole(stages, **fields)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "n")
    assert stages.calls("thinker") == []
