"""What judgements take, which cost nothing: so many of them, memory where there is some, and no time behind the end."""

from __future__ import annotations

from typing import Any, cast

import pytest

from services.gateway.realtime.session import Session
from services.gateway.realtime.turns import judgement
from services.gateway.realtime.turns.judgement import Judge
from tests.fixtures.redis import RedisServer
from tests.fixtures.wait import wait_until
from tests.gateway.realtime.sounds import silence
from tests.gateway.realtime.talking import Client
from tests.gateway.realtime.test_eager import HELLO
from tests.gateway.realtime.test_semantic_vad import HIGH, PAUSE, hangs, is_judged, judgements, judging
from tests.gateway.scripted.script import Act
from tests.gateway.scripted.stages import Stages

NOTHING = cast(Any, None)
COMMITTED = "input_audio_buffer.committed"
TRANSCRIBED = "conversation.item.input_audio_transcription.completed"


async def ask_for_no_answers(client: Client, **audio_input: Any) -> None:
    given = {"turn_detection": {**HIGH, "create_response": False}, **audio_input}
    session = {"type": "realtime", "audio": {"input": given}}
    await client.ask("session.update", "session.updated", session=session)


def session_of(stages: Stages) -> Session:
    (session,) = stages.gateway.gateway.sessions._open  # pyright: ignore[reportPrivateUsage]
    return session


async def says_hello(stages: Stages, client: Client) -> int:
    """Have a turn of the user. Return how many questions were asked about its end."""
    asked, turns = judgements(stages), client.types.count(COMMITTED)
    await client.append(HELLO + PAUSE)
    await client.settled()
    taking = session_of(stages)._taking  # pyright: ignore[reportPrivateUsage]
    assert taking is not None
    await wait_until(lambda: not taking._asking)  # pyright: ignore[reportPrivateUsage]
    await client.append(silence(640))
    await client.settled()
    assert client.types.count(COMMITTED) == turns + 1
    return judgements(stages) - asked


async def test_a_session_has_so_many_judgements_a_minute(store: RedisServer) -> None:
    """Also where it never asks for a response, which is what it would pay for."""
    async with judging(store, "yes", realtime_judgements_per_minute=1) as (stages, client):
        await ask_for_no_answers(client)
        await client.append(HELLO + PAUSE)
        await is_judged(stages)
        await client.append(silence(64))
        await client.until("input_audio_buffer.speech_stopped")
        before = client.types.count("input_audio_buffer.speech_stopped")
        await client.append(silence(400) + HELLO + PAUSE + silence(64))
        await client.settled()
        assert client.types.count("input_audio_buffer.speech_stopped") == before
        await client.append(silence(400))
        await client.until("input_audio_buffer.speech_stopped")
        assert judgements(stages) == 1


def test_judgements_are_counted_over_any_minute() -> None:
    now_s = 0.0
    judge = Judge(NOTHING, NOTHING, 2, clock=lambda: now_s)
    for now_s, may_ask in ((0.0, True), (30.0, True), (59.9, False), (60.0, True), (60.1, False), (90.0, True)):
        assert judge._may_ask() is may_ask, now_s  # pyright: ignore[reportPrivateUsage]
    assert not Judge(NOTHING, NOTHING, 0)._may_ask()  # pyright: ignore[reportPrivateUsage]


async def test_who_pays_for_nothing_has_few_judgements(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "MOST_UNPAID", 2)
    async with judging(store, "yes") as (stages, client):
        await ask_for_no_answers(client)
        assert [await says_hello(stages, client) for _ in range(3)] == [1, 1, 0]
        # An answer that is paid for makes room.
        await client.ask("response.create", "response.done", response={"output_modalities": ["text"]})
        assert await says_hello(stages, client) == 1


async def test_who_pays_for_transcripts_has_judgements(store: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judgement, "MOST_UNPAID", 1)
    async with judging(store, "yes") as (stages, client):
        await ask_for_no_answers(client, transcription={})
        for count in range(1, 3):
            assert await says_hello(stages, client) == 1
            while client.types.count(TRANSCRIBED) < count:
                await client.next()


async def test_without_memory_for_the_recording_nothing_is_judged(store: RedisServer) -> None:
    async with judging(store, "yes") as (stages, client):
        await ask_for_no_answers(client)
        await client.write("x" * 300_000)  # what the session holds for it has room for some seconds of audio
        budget = stages.gateway.gateway.memory.budget
        with budget.take_at_once(what="Others") as others:
            assert others.grow_at_once(budget.total_bytes - budget.held_bytes - 1024)
            assert await says_hello(stages, client) == 0
        assert await says_hello(stages, client) == 1


@pytest.mark.parametrize("turns_are", ["forgotten", "manual"])
async def test_what_is_asked_no_more_is_over_before_the_session(store: RedisServer, turns_are: str) -> None:
    async with judging(store, "yes") as (stages, client):
        stages.next_calls("thinker", Act("hang"))
        await client.append(HELLO + PAUSE)
        await hangs(stages)
        session = session_of(stages)
        taking = session._taking  # pyright: ignore[reportPrivateUsage]
        assert taking is not None
        task = taking._judging  # pyright: ignore[reportPrivateUsage]
        assert task is not None
        if turns_are == "manual":
            await session.set_options(session.options, None)
        else:
            await taking.forget()
            assert not task.done()
        await session.close()
        assert task.done()
