"""What a gateway that drains lets its sessions end, held by OpenAI's own client with a recorded voice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from services.gateway.realtime.events import Event, ResponseDone, SpeechStopped
from services.gateway.realtime.openai.options import FIELD_NAMES
from services.gateway.realtime.response import ResponseStatus
from services.gateway.realtime.session_end import SessionEnd
from services.gateway.realtime.turns.options import TurnDetection
from services.gateway.turn.intent import Principal
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.conftest import INSTRUCT
from tests.gateway.realtime.asides import TRANSCRIPT, Asides
from tests.gateway.realtime.sounds import said, silence
from tests.gateway.realtime.talking import Client, talking
from tests.gateway.realtime.test_connections import KEY, close_code, opening, told
from tests.gateway.realtime.test_server_vad import BEFORE, EAGER_OFF, ROOMY, VAD
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages, scripted_stages

SENTENCE = silence(BEFORE) + said("tt-weasels")
BROKEN_OFF = 48 * 1500
"""Bytes of it, in the middle of a word."""


@asynccontextmanager
async def serving(store: RedisServer, **limits: Any) -> AsyncGenerator[Stages]:
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8, **ROOMY, **limits) as stages:
        yield stages
        await wait_until(stages.clean)
        await wait_until(lambda: stages.gateway.gateway.memory.budget.held_bytes == 0)


@asynccontextmanager
async def draining(stages: Stages) -> AsyncGenerator[None]:
    """Have the gateway drain inside the block, and wait for its end."""
    async with opening(stages, additional_headers=KEY) as idle:
        assert (await told(idle))["type"] == "session.created"
        drain = asyncio.create_task(stages.gateway.gateway.drain())
        assert await close_code(idle) == (1012, "server_restart")
    yield
    await drain


async def close_of(client: Client) -> tuple[int, str]:
    with pytest.raises(ConnectionClosed) as closed:
        await client.until("nothing")
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


async def test_a_user_who_speaks_is_heard_and_answered(store: RedisServer) -> None:
    async with serving(store) as stages, talking(stages, VAD) as client:
        await client.append(SENTENCE[:BROKEN_OFF])
        await client.until("input_audio_buffer.speech_started")
        async with draining(stages):
            await client.append(SENTENCE[BROKEN_OFF:] + silence(900))
            assert (await client.until("response.done")).response.status == "completed"
            assert client.audio() == stages.story.pcm
            assert await close_of(client) == (1012, "server_restart")


async def test_a_drain_in_the_moment_in_which_a_turn_ends_waits_for_its_answer(store: RedisServer) -> None:
    """The turn is over, and its answer has not begun: a client that reads slowly makes that last."""
    told = list[Event]()
    async with scripted_stages(store.url, Asides(frames=4), workers=1, slots=8, **EAGER_OFF) as stages:
        sessions = stages.gateway.gateway.sessions

        async def emit(event: Event) -> None:
            told.append(event)
            if isinstance(event, SpeechStopped):
                opened.session.drain()
                assert not opened.session.ended.done()

        user = Principal("default", "default")
        async with sessions.open(user, INSTRUCT.name, FIELD_NAMES, emit, TurnDetection()) as opened:
            await opened.session.append_audio(SENTENCE + silence(900))
            assert await opened.session.ended is SessionEnd.DRAINED
        (done,) = [event.response for event in told if isinstance(event, ResponseDone)]
        assert done.status is ResponseStatus.COMPLETED
        await wait_until(stages.clean)


async def test_a_turn_without_an_answer_and_its_transcript_are_told(store: RedisServer) -> None:
    transcribed = {"transcription": {"model": "any"}, "turn_detection": {**VAD, "create_response": False}}
    async with serving(store) as stages, talking(stages, VAD) as client:
        session = {"type": "realtime", "audio": {"input": transcribed}}
        await client.ask("session.update", "session.updated", session=session)
        await client.append(SENTENCE[:BROKEN_OFF])
        await client.until("input_audio_buffer.speech_started")
        async with draining(stages):
            await client.append(SENTENCE[BROKEN_OFF:] + silence(900))
            whole = await client.until("conversation.item.input_audio_transcription.completed")
            assert whole.transcript == "".join(TRANSCRIPT)
            assert await close_of(client) == (1012, "server_restart")
        assert "response.created" not in client.types


async def test_speech_that_is_taken_back_ends_the_session(store: RedisServer) -> None:
    async with serving(store) as stages, talking(stages, VAD) as client:
        await client.append(SENTENCE[:BROKEN_OFF])
        await client.until("input_audio_buffer.speech_started")
        async with draining(stages):
            await client.ask("input_audio_buffer.clear", "input_audio_buffer.cleared")
            assert await close_of(client) == (1012, "server_restart")


async def test_a_turn_that_does_not_end_holds_up_no_drain(store: RedisServer) -> None:
    async with serving(store, drain_s=0.1) as stages, talking(stages, VAD) as client:
        await client.append(SENTENCE[:BROKEN_OFF])
        await client.until("input_audio_buffer.speech_started")
        async with draining(stages):
            assert await close_of(client) == (1012, "server_restart")
        assert "input_audio_buffer.speech_stopped" not in client.types


async def test_nothing_new_begins(store: RedisServer) -> None:
    async with serving(store) as stages, talking(stages, VAD) as client:
        stages.next_calls("talker", Act("hang", 1))
        await client.append(silence(BEFORE) + said("hello") + silence(900))
        await client.until("response.output_audio.delta")
        async with draining(stages):
            error = await client.error("response.create", response={"conversation": "none"})
            assert error.code == "unavailable"
            # Neither is speech that begins now waited for.
            await client.append(SENTENCE)
            assert await close_of(client) == (1012, "server_restart")
        assert client.types.count("response.created") == 1
