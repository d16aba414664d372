"""A request of several turns, one after the other: a gateway that drains finishes what it has begun."""

from __future__ import annotations

import asyncio

import pytest

from services.common.errors import Unavailable
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.checks import stages
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

__all__ = ["stages"]

# The scripted worker cuts at each "|".
FILE = ("meeting.mp3", b"first|second|third", "audio/mpeg")
FIELDS = {"model": INSTRUCT.name, "chunking_strategy": "auto"}
TRANSCRIPTIONS = "/v1/audio/transcriptions"


async def test_a_gateway_that_drains_finishes_a_recording(stages: Stages) -> None:
    client, turns = stages.gateway.client, stages.gateway.gateway.turns
    post = client.post(TRANSCRIPTIONS, data=FIELDS, files={"file": FILE}, timeout=HANGS_AFTER_S)
    with stages.held("thinker"):
        asked = asyncio.create_task(post)
        await wait_until(lambda: stages.calls("thinker"))
        drained = asyncio.create_task(turns.drain())
        await wait_until(lambda: turns.draining)
    answer = await asked
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].count(stages.story.text.strip()) == 3
    await drained
    with pytest.raises(Unavailable), turns.keep_open():
        pass


async def test_a_gateway_that_drains_finishes_a_recording_that_is_being_cut(stages: Stages) -> None:
    stages.next_calls("preprocess", Act("hang", 0))
    client, turns = stages.gateway.client, stages.gateway.gateway.turns
    post = client.post(TRANSCRIPTIONS, data=FIELDS, files={"file": FILE}, timeout=HANGS_AFTER_S)
    asked = asyncio.create_task(post)
    await wait_until(lambda: stages.hanging("preprocess"))
    drained = asyncio.create_task(turns.drain())
    await wait_until(lambda: turns.draining)
    next(worker for worker in stages.preprocess if worker.cuts).kill()  # another one cuts it
    answer = await asked
    assert answer.status_code == 200, answer.text
    assert answer.json()["text"].count(stages.story.text.strip()) == 3
    await drained


async def test_the_drains_end_ends_a_recording(stages: Stages) -> None:
    stages.next_calls("thinker", Act("hang", 2))
    client, turns = stages.gateway.client, stages.gateway.gateway.turns
    post = client.post(TRANSCRIPTIONS, data=FIELDS, files={"file": FILE}, timeout=HANGS_AFTER_S)
    asked = asyncio.create_task(post)
    await wait_until(lambda: stages.hanging("thinker"))
    turns.cut()
    answer = await asked
    assert answer.status_code == 503, answer.text
    assert len(stages.calls("thinker")) == 1
