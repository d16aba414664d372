"""Cutting a recording takes the first request of its pieces from the limits, before a worker reads the file."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from services.common.errors import BadInput
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.usage_records import count_of, the_record, usage_records
from tests.gateway.turn.test_limits import Limited, as_key, limited

FILE = ("meeting.mp3", b"first|second", "audio/mpeg")


async def transcribe(running: Limited, **fields: Any) -> httpx.Response:
    return await running.stages.gateway.client.post(
        "/v1/audio/transcriptions",
        headers=as_key(KEY),
        data={"model": INSTRUCT.name, "chunking_strategy": "auto", **fields},
        files={"file": FILE},
    )


def cuts(running: Limited) -> int:
    return sum(len(worker.cuts) for worker in running.stages.preprocess)


async def test_a_recording_costs_as_many_requests_as_it_has_pieces(store: RedisServer) -> None:
    async with limited(store, limit("requests_per_month", 3)) as running:
        assert (await transcribe(running)).status_code == 200

        async def settled() -> bool:
            return len(await usage_records(store)) == 2

        await wait_until(settled)
        assert await count_of(store, "proj_1", "requests") == 2
        assert {record.outcome for record in await usage_records(store)} == {"ok"}


async def test_nothing_is_cut_beyond_a_limit(store: RedisServer) -> None:
    async with limited(store, limit("requests_per_month", 1)) as running:
        assert (await running.post()).status_code == 200
        refused = await transcribe(running)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
        assert cuts(running) == 0


@pytest.mark.parametrize("stream", ["false", "true"])
async def test_every_answer_says_what_is_left_of_the_limits(store: RedisServer, stream: str) -> None:
    async with limited(store, limit("requests_per_minute", 3)) as running:
        answers = [await transcribe(running, stream=stream)]
        running.stages.next_calls("preprocess", Act("raise", error=BadInput("broken", param="file")))
        answers += [await transcribe(running, stream=stream) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [200, 400, 429]
        left = [answer.headers["x-ratelimit-remaining-requests"] for answer in answers]
        assert left == ["2", "0", "0"]


async def test_whoever_leaves_before_the_first_piece_has_used_a_request(store: RedisServer) -> None:
    async with limited(store, limit("requests_per_month", 1)) as running:
        running.stages.next_calls("preprocess", Act("hang", 0))
        leaving = asyncio.create_task(transcribe(running))
        await wait_until(lambda: cuts(running) == 1)
        leaving.cancel()
        await asyncio.gather(leaving, return_exceptions=True)
        record = await the_record(store)
        assert (record.outcome, record.kind, record.amounts.prompt_audio_tokens) == ("cancelled", "transcription", 0)
        assert (await transcribe(running)).status_code == 429
        assert cuts(running) == 1


async def test_a_limit_on_a_requests_media_holds_for_the_recording(store: RedisServer) -> None:
    async with limited(store, limit("media_bytes_per_request", len(FILE[1]) - 1)) as running:
        assert (await transcribe(running)).status_code == 413
        assert cuts(running) == 0
