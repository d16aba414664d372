"""Clients are told of speech that no longer followed its text, and it goes on elsewhere as it was spoken again."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest
import pytest_asyncio

from antiphon.v1 import talker_pb2
from services.common.derailments import Derailment
from services.gateway.http.chat.usage import antiphon_fields
from services.gateway.turn.events import FinishReason, TurnDone
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import API_KEY, INSTRUCT
from tests.gateway.dashscope.test_native import PATH, STREAM
from tests.gateway.scripted.checks import check_whole
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import CHAT, HELLO, SPEECH, Stages, Told, scripted_stages
from tests.gateway.scripted.story import CODEBOOKS, Story
from tests.gateway.scripted.usage_records import the_record, usage_records
from tests.gateway.turn.test_converse import SPEECH as SPOKEN
from tests.gateway.turn.test_converse import converse, gateway_stub
from tests.gateway.turn.test_limits import as_key, limited

AGAIN_FROM = 4
STORY = Story(again_from=AGAIN_FROM, derailment=talker_pb2.DERAILMENT_SILENCE)
TOLD = {"antiphon_derailment": "silence", "antiphon_spoken_again": 1}


@pytest_asyncio.fixture
async def stages(store: RedisServer) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, STORY) as running:
        yield running
        await wait_until(running.clean)


def told_by(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name.startswith("antiphon_")}


async def post(stages: Stages, path: str, body: dict[str, Any], headers: dict[str, str] | None = None) -> Any:
    response = await stages.gateway.client.post(path, json=body, headers={**as_key(API_KEY), **(headers or {})})
    assert response.status_code == 200, response.text
    return response


async def test_the_last_chunk_and_the_whole_answer_say_it(stages: Stages) -> None:
    told = Told()
    chunks = [chunk async for chunk in stages.chunks(**SPEECH)]
    for chunk in chunks:
        told.add(chunk)
    check_whole(stages, told, spoken=True)
    (ended,) = [chunk for chunk in chunks if told_by(chunk)]
    assert told_by(ended) == TOLD
    assert ended["choices"][0]["finish_reason"] == "stop"
    whole = await post(stages, CHAT, {"model": INSTRUCT.name, "messages": HELLO, **SPEECH})
    assert told_by(whole.json()) == TOLD
    silent = await post(stages, CHAT, {"model": INSTRUCT.name, "messages": HELLO})
    assert told_by(silent.json()) == {}


async def test_dashscopes_form_says_it(stages: Stages) -> None:
    body = {
        "model": INSTRUCT.name,
        "input": {"messages": [{"role": "user", "content": [{"text": "hello"}]}]},
        "parameters": {"modalities": ["text", "audio"], "audio": {"voice": "Cherry", "format": "wav"}},
    }
    assert told_by((await post(stages, PATH, body)).json()) == TOLD
    events = (await post(stages, PATH, body, STREAM)).text
    shown = [json.loads(line.removeprefix("data:")) for line in events.splitlines() if line.startswith("data:")]
    assert [told_by(event) for event in shown if told_by(event)] == [TOLD]


async def test_the_events_of_a_given_text_say_it(stages: Stages) -> None:
    body = {"model": INSTRUCT.name, "input": "Say this.", "response_format": "pcm", "stream_format": "sse"}
    events = (await post(stages, "/v1/audio/speech", body)).text
    last = json.loads(events.rstrip().rpartition("data: ")[2])
    assert (last["type"], "finish_reason" in last) == ("speech.audio.done", False)
    assert told_by(last) == TOLD


async def test_converse_says_it(stages: Stages) -> None:
    async with gateway_stub(stages) as stub:
        events = [event async for event in converse(stub, output_modalities=SPOKEN)]
    done = events[-1].done
    assert (done.speech_end, done.derailment) == (talker_pb2.SPEECH_END_STOP, talker_pb2.DERAILMENT_SILENCE)
    assert done.spoken_again == 1
    again = [event.speech.spoken_again for event in events if event.HasField("speech")]
    assert again == [0] * AGAIN_FROM + [1] * (STORY.frames - AGAIN_FROM)


@pytest.mark.parametrize("is_limited", [True, False])
async def test_the_turns_record_says_it(store: RedisServer, is_limited: bool) -> None:
    limits = [limit("tokens_per_day", 10_000)] if is_limited else []
    async with limited(store, *limits, story=STORY) as running:
        await running.ask(**SPEECH)
        record = await the_record(store)
        assert (record.outcome, record.derailment, record.spoken_again) == ("ok", "silence", 1)
        assert record.amounts.completion_audio_tokens == STORY.frames
        await running.ask()

        async def are_written() -> bool:
            return len(await usage_records(store)) == 2

        await wait_until(are_written)
        silent = (await usage_records(store))[1]
        assert (silent.outcome, silent.derailment, silent.spoken_again) == ("ok", "", 0)


async def test_the_record_of_a_client_that_leaves_says_what_had_happened(store: RedisServer) -> None:
    async with limited(store, story=STORY) as running:
        frames, heard = AGAIN_FROM + 1, Told()
        running.stages.next_calls("talker", Act("hang", frames))
        async with aclosing(running.stages.chunks(headers=as_key(KEY), **SPEECH)) as chunks:
            async for chunk in chunks:
                heard.add(chunk)
                if len(heard.codes) == CODEBOOKS * frames:
                    break
        record = await the_record(store)
        assert (record.outcome, record.derailment, record.spoken_again) == ("cancelled", "", 1)


def test_a_whole_answer_says_it_of_all_its_choices() -> None:
    ends = [
        TurnDone(FinishReason.STOP, spoken_again=1),
        TurnDone(FinishReason.LENGTH, limit="tokens_per_day"),
        TurnDone(FinishReason.STOP, spoken_again=2, derailment=Derailment.CYCLE),
    ]
    assert antiphon_fields(*ends) == {
        "antiphon_limit": "tokens_per_day",
        "antiphon_derailment": "cycle",
        "antiphon_spoken_again": 3,
    }


@pytest.mark.parametrize(("frames", "again"), [(AGAIN_FROM, 0), (AGAIN_FROM + 1, 1)])
async def test_another_talker_is_told_how_often_it_was_spoken_again(stages: Stages, frames: int, again: int) -> None:
    stages.next_calls("talker", Act("die", frames))
    check_whole(stages, await stages.ask(**SPEECH), spoken=True)
    first, second = stages.calls("talker")
    assert (first.spoken_again, second.spoken_again) == (0, again)
    assert len(second.delivered_codes) == 2 * frames
    assert second.sampling.seed == 4711
