"""Recordings that are transcribed in pieces (chunking_strategy="auto"): one text, progress, losses, errors, cancel."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import openai
import pytest
import pytest_asyncio

from services.common.errors import BadInput
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import HANGS_AFTER_S, wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.scripted.pieces import samples_of
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

pytestmark = pytest.mark.asyncio(loop_scope="module")
# The scripted worker cuts at each "|".
FILE = ("meeting.mp3", b"first|second|third", "audio/mpeg")
SENT = [b"first", b"second", b"third"]


@pytest_asyncio.fixture(loop_scope="module")
async def stages(store: RedisServer) -> AsyncIterator[Stages]:
    """Nothing may be left of a test's turns and pieces."""
    async with scripted_stages(store.url, workers=2) as running:
        yield running
        await wait_until(running.clean)
        memory = running.gateway.gateway.memory
        assert memory.budget.holds == 0
        await wait_until(lambda: not memory.spill.used_bytes)  # pyright: ignore[reportAttributeAccessIssue]


@pytest_asyncio.fixture(loop_scope="module")
async def client(stages: Stages) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=stages.gateway.url + "/v1", api_key=API_KEY, max_retries=0) as made:
        yield made


def heard(stages: Stages) -> list[bytes]:
    """Return what the model heard, in order."""
    return [samples_of(media[0]) for worker in stages.preprocess for media in worker.media]


async def test_the_pieces_are_one_text(stages: Stages, client: openai.AsyncOpenAI) -> None:
    answer = await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    text = stages.story.text.strip()
    assert answer.text.split() == " ".join([text] * 3).split()
    assert sorted(heard(stages)) == sorted(SENT)
    assert answer.usage is not None
    assert answer.usage.model_dump()["total_tokens"] == 3 * 15
    (cut,) = [cut for worker in stages.preprocess for cut in worker.cuts]
    assert (cut.piece_s, cut.from_sample, cut.model) == (120, 0, INSTRUCT.name)


async def test_a_stream_tells_how_far_it_is(stages: Stages) -> None:
    async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as http:
        answer = await http.post(
            stages.gateway.url + "/v1/audio/transcriptions",
            headers={"authorization": f"Bearer {API_KEY}"},
            data={"model": INSTRUCT.name, "chunking_strategy": "auto", "stream": "true"},
            files={"file": FILE},
        )
    lines = [line for line in answer.text.splitlines() if line.startswith("data: ")]
    events: list[dict[str, Any]] = [json.loads(line.removeprefix("data: ")) for line in lines]
    progress = [event for event in events if event["type"] == "antiphon.progress"]
    ends = [len(b"".join(SENT[: count + 1])) / 16_000 for count in range(3)]
    assert [event["transcribed_s"] for event in progress] == [round(end, 3) for end in ends]
    assert all(event["recording_s"] >= event["transcribed_s"] for event in progress)
    done = events[-1]
    assert done["type"] == "transcript.text.done"
    assert "".join(event.get("delta", "") for event in events) == done["text"]


async def test_a_lost_worker_is_replaced_without_a_piece_twice(stages: Stages, client: openai.AsyncOpenAI) -> None:
    stages.next_calls("preprocess", Act("die", 2))  # after the first piece
    answer = await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    assert answer.text.split() == " ".join([stages.story.text.strip()] * 3).split()
    cuts = [cut for worker in stages.preprocess for cut in worker.cuts]
    assert sorted(cut.from_sample for cut in cuts) == [0, len(SENT[0])]
    assert sorted(set(heard(stages))) == sorted(SENT)


async def test_a_file_that_cannot_be_decoded_is_the_clients_error(stages: Stages, client: openai.AsyncOpenAI) -> None:
    stages.next_calls("preprocess", Act("raise", error=BadInput("broken", code="invalid_media", param="file")))
    with pytest.raises(openai.BadRequestError) as caught:
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    assert (caught.value.code, caught.value.param) == ("invalid_media", "file")
    assert not stages.calls("thinker")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_all(stages: Stages, stream: bool) -> None:
    stages.next_calls("thinker", Act("hang", 1))
    async with httpx.AsyncClient(timeout=HANGS_AFTER_S) as http:
        request = http.build_request(
            "POST",
            stages.gateway.url + "/v1/audio/transcriptions",
            headers={"authorization": f"Bearer {API_KEY}"},
            data={"model": INSTRUCT.name, "chunking_strategy": "auto", "stream": str(stream).lower()},
            files={"file": FILE},
        )
        asking = asyncio.create_task(http.send(request, stream=True))
        await wait_until(lambda: bool(stages.calls("thinker")))
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
    await wait_until(stages.clean)
    assert len(stages.calls("thinker")) == 1


async def test_a_disk_without_room_refuses_the_recording(
    stages: Stages, client: openai.AsyncOpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.gateway.gateway.memory.spill, "_max_bytes", 10)
    with pytest.raises(openai.RateLimitError) as caught:
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    assert caught.value.code == "spill_full"


async def test_workers_of_an_earlier_version_are_told(stages: Stages, client: openai.AsyncOpenAI) -> None:
    for worker in stages.preprocess:
        worker.knows_cuts = False
    with pytest.raises(openai.InternalServerError) as caught:
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    assert (caught.value.status_code, caught.value.code) == (503, "no_worker")
    # One that can is found.
    stages.preprocess[1].knows_cuts = True
    assert (
        await client.audio.transcriptions.create(file=FILE, model=INSTRUCT.name, chunking_strategy="auto")
    ).text.startswith(stages.story.text)
