"""Each dialect tells of speech that no longer followed its text, to clients that know nothing of it, and the record of
the turn says it too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai.types.beta import realtime as beta
from openai.types.realtime import ResponseDoneEvent

from antiphon.v1 import talker_pb2
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime import test_beta
from tests.gateway.realtime.asides import Asides
from tests.gateway.realtime.dashscope import talking as dashscope
from tests.gateway.realtime.talking import PCM, Client, talking
from tests.gateway.realtime.test_connections import opening
from tests.gateway.realtime.test_session_limits import answered
from tests.gateway.scripted.control_plane import KEY, limit
from tests.gateway.scripted.stages import Stages, scripted_stages
from tests.gateway.scripted.story import Story
from tests.gateway.scripted.usage_records import forget_usage, the_record
from tests.gateway.turn.test_limits import as_key, limited

ENDED = {"antiphon_derailment": "silence"}
AGAIN = {"antiphon_spoken_again": 1}
WRITTEN = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hello"}]}
STORIES = [
    pytest.param({"derailment": talker_pb2.DERAILMENT_SILENCE}, ENDED, id="ended"),
    pytest.param({"again_from": 2}, AGAIN, id="again"),
    pytest.param({"again_from": 2, "derailment": talker_pb2.DERAILMENT_SILENCE}, ENDED | AGAIN, id="both"),
]
both = pytest.mark.parametrize(("course", "told"), STORIES[2:])
each = pytest.mark.parametrize(("course", "told"), STORIES)


@asynccontextmanager
async def serving(store: RedisServer, course: dict[str, Any], told: dict[str, Any]) -> AsyncGenerator[Stages]:
    """Have a talker that speaks so, and one answer inside the block. The answer's record must say what was `told`."""
    await forget_usage(store)
    story = Asides(frames=4, **course)
    async with scripted_stages(store.url, story, workers=1, slots=8, usage_records="on") as stages:
        yield stages
        await wait_until(stages.clean)
        record = await the_record(store)
        assert record.kind == "realtime"
        assert record.derailment == told.get("antiphon_derailment", "")
        assert record.spoken_again == told.get("antiphon_spoken_again", 0)


async def spoken(client: Client, kind: type[Any]) -> Any:
    """Have a turn. Return its response, which must be as the client's types have it."""
    await client.send("conversation.item.create", item=WRITTEN)
    done = await client.ask("response.create", "response.done")
    assert type(done) is kind
    kind.model_validate(done.to_dict(mode="json"), strict=True)
    return done.response


@each
async def test_openais_client_is_told(store: RedisServer, course: dict[str, Any], told: dict[str, Any]) -> None:
    async with serving(store, course, told) as stages, talking(stages) as client:
        response = await spoken(client, ResponseDoneEvent)
        assert response.status == "completed"
        assert response.status_details.to_dict() == {"type": "completed", **told}


@both
async def test_openais_beta_client_is_told(store: RedisServer, course: dict[str, Any], told: dict[str, Any]) -> None:
    async with serving(store, course, told) as stages, test_beta.talking(stages) as client:
        response = await spoken(client, beta.ResponseDoneEvent)
        assert response.status_details.to_dict() == {"type": "completed", **told}


@both
async def test_dashscopes_client_is_told(store: RedisServer, course: dict[str, Any], told: dict[str, Any]) -> None:
    options: dict[str, Any] = {"enable_turn_detection": False, "enable_input_audio_transcription": False}
    async with serving(store, course, told) as stages, dashscope.talking(stages, **options) as talk:
        await talk.append(PCM)
        await asyncio.to_thread(talk.sdk.commit)
        await asyncio.to_thread(talk.sdk.create_response)
        response = (await talk.until("response.done"))["response"]
        assert response["status_details"] == {"type": "completed", **told}


async def test_speech_that_follows_its_text_tells_nothing(store: RedisServer) -> None:
    async with serving(store, {}, {}) as stages, talking(stages) as client:
        assert (await spoken(client, ResponseDoneEvent)).status_details is None


async def test_an_answer_that_a_limit_cuts_tells_it_too(store: RedisServer) -> None:
    story = Story(again_from=2, derailment=talker_pb2.DERAILMENT_CUT)
    few = limit("answer_tokens_per_minute", 7)
    async with (
        limited(store, few, story=story) as running,
        opening(running.stages, additional_headers=as_key(KEY)) as socket,
    ):
        response = await answered(socket)
        assert response["status_details"] == {
            "type": "incomplete",
            "reason": "max_output_tokens",
            "antiphon_limit": "answer_tokens_per_minute",
            "antiphon_derailment": "cut",
            "antiphon_spoken_again": 1,
        }
        record = await the_record(store)
        assert (record.outcome, record.derailment, record.spoken_again) == ("limit", "cut", 1)
