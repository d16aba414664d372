"""Turns whose answer is given, and only spoken."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import MOVED, Unavailable
from services.common.stages import PREPROCESS, TALKER, THINKER
from services.gateway.turn.model import Model, ModelKind, needed_stages
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.samples import sample
from tests.gateway.scripted.checks import charged, engine_failure
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

SPEECH = "/v1/audio/speech"
ASK = {"model": INSTRUCT.name, "input": "Say this.", "voice": "ethan", "response_format": "pcm"}


async def test_no_thinker_is_asked_or_needed(store: RedisServer) -> None:
    async with scripted_stages(store.url, workers=1) as stages:
        stages.thinker[0].kill()
        response = await stages.gateway.client.post(SPEECH, json=ASK)
        assert response.content == stages.story.pcm
        assert not stages.calls("thinker")
        await wait_until(stages.clean)


def test_a_given_answer_needs_no_thinker() -> None:
    assert needed_stages(speech=True, said=True) == {PREPROCESS, TALKER}
    model = Model("m", ModelKind.INSTRUCT, 1000, stages=frozenset({PREPROCESS, TALKER}))
    assert not model.missing_stages(speech=True, said=True)
    assert model.missing_stages(speech=True) == {THINKER}


async def test_its_tokens_are_read_and_only_frames_are_made(stages: Stages, store: RedisServer) -> None:
    def counts() -> list[float]:
        kinds = ("prompt", "text", "audio")
        return [sample("antiphon_gateway_tokens_total", kind=kind, tenant="default") for kind in kinds]

    before, (charged_before,) = counts(), await charged(store, "talker")
    await stages.gateway.client.post(SPEECH, json=ASK)
    story = stages.story
    assert [after - was for after, was in zip(counts(), before, strict=True)] == [
        3 + len(story.token_ids),
        0,
        story.frames,
    ]

    async def is_settled() -> bool:
        return (await charged(store, "talker"))[0] - charged_before == story.frames

    await wait_until(is_settled)


@pytest.mark.parametrize(
    "acts",
    [
        [Act("die", 0)],
        [Act("die", 3)],
        [Act("cut", 3), Act("die", 2)],
        [Act("raise", 2, engine_failure())],
        [Act("raise", 4, Unavailable("moves", code=MOVED))],
    ],
    ids=str,
)
async def test_it_survives_the_loss_of_its_talker(stages: Stages, acts: list[Act]) -> None:
    stages.next_calls("talker", *acts)
    response = await stages.gateway.client.post(SPEECH, json=ASK)
    assert response.content == stages.story.pcm
    assert len(stages.calls("preprocess")) == 1


@pytest.mark.parametrize("act", [Act("die"), Act("cut")], ids=str)
async def test_it_survives_the_loss_of_its_preprocess_worker(stages: Stages, act: Act) -> None:
    stages.next_calls("preprocess", act)
    assert (await stages.gateway.client.post(SPEECH, json=ASK)).content == stages.story.pcm


async def test_a_preprocess_worker_of_an_earlier_version_is_no_fault(stages: Stages) -> None:
    for worker in stages.preprocess:
        worker.knows_said = False
    response = await stages.gateway.client.post(SPEECH, json=ASK)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "no_worker")
    assert "retry-after" in response.headers


async def test_a_client_that_leaves_ends_it(stages: Stages) -> None:
    stages.next_calls("talker", Act("hang", 4))
    asked = asyncio.create_task(stages.gateway.client.post(SPEECH, json=ASK))
    await wait_until(lambda: stages.hanging("talker"))
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)
    await wait_until(stages.clean)
